import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from evaluation.bootstrap import auc_difference_over_seeds, weighted_auc


def case(samples: int = 400, seeds: int = 3, gap: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    target = (rng.random(samples) < 0.3).astype(int)
    a, b = (1.0 * target + rng.normal(size=(seeds, samples)) for _ in range(2))
    return target, a + gap * target, b, np.arange(samples) // 2


def test_the_weighted_auc_is_that_of_scikit_learn_with_ties() -> None:
    target, a, _, _ = case()
    weight = np.random.default_rng(1).integers(0, 4, len(target)).astype(float)
    score = np.round(a[0], 1)
    _, ranks = np.unique(score, return_inverse=True)
    expected = roc_auc_score(target, score, sample_weight=weight)
    assert weighted_auc(target.astype(bool), ranks, weight) == pytest.approx(expected)


def test_the_value_is_the_difference_of_mean_aucs() -> None:
    target, a, b, group = case(gap=0.5)
    expected = np.mean([roc_auc_score(target, row) for row in a]) - np.mean([roc_auc_score(target, row) for row in b])
    found = auc_difference_over_seeds(target, a, b, group, draws=200)
    assert found.value == pytest.approx(expected)
    assert 0 < found.low < found.value < found.high


def test_the_interval_of_equal_systems_includes_zero() -> None:
    target, a, b, group = case()
    found = auc_difference_over_seeds(target, a, b, group, draws=200)
    assert found.low < 0 < found.high


def test_larger_groups_widen_the_interval() -> None:
    """Fifty copies of each sample are no more evidence than one."""
    target, a, b, _ = case(samples=200, seeds=1)
    many = [np.repeat(part, 50, axis=-1) for part in (target, a, b)]
    once = auc_difference_over_seeds(target, a, b, np.arange(200), draws=200)
    grouped = auc_difference_over_seeds(*many, np.repeat(np.arange(200), 50), draws=200)
    apart = auc_difference_over_seeds(*many, np.arange(200 * 50), draws=200)
    assert grouped.high - grouped.low == pytest.approx(once.high - once.low)
    assert apart.high - apart.low < 0.7 * (once.high - once.low)
