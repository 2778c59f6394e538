import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from evaluation.bootstrap import (
    auc_difference_over_seeds,
    auc_statistic,
    bootstrapped,
    percentile_interval,
)


def case(samples: int = 400, seeds: int = 3, gap: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    target = (rng.random(samples) < 0.3).astype(int)
    a, b = (1.0 * target + rng.normal(size=(seeds, samples)) for _ in range(2))
    return target, a + gap * target, b, np.arange(samples) // 2


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


def test_the_auc_of_a_draw_is_that_of_the_samples_it_repeats() -> None:
    target, a, b, group = case()
    score = np.round(a[0], 1)  # many ties
    score[::7] = np.nan
    statistics = [auc_statistic(target, score), auc_statistic(target, b[0]), lambda weight: weight @ np.arange(400)]
    drawn = bootstrapped(statistics, group, draws=20)
    assert drawn.shape == (20, 3)
    weights: list[np.ndarray] = []
    bootstrapped([lambda weight: weights.append(weight) or 0.0], group, draws=20)
    for row, weight in zip(drawn, weights, strict=True):
        assert np.array_equal(weight[::2], weight[1::2]), "groups of two stay together"
        assert weight.sum() == 400
        known = ~np.isnan(score)
        assert row[0] == pytest.approx(roc_auc_score(target[known], score[known], sample_weight=weight[known]))
        assert row[1] == pytest.approx(roc_auc_score(target, b[0], sample_weight=weight))
        assert row[2] == weight @ np.arange(400)


def test_a_draw_without_both_classes_is_left_out_of_the_interval() -> None:
    drawn = bootstrapped([auc_statistic([1, 0, 0, 0], [0.9, 0.1, 0.2, 0.95])], np.arange(4), draws=200)[:, 0]
    assert 0 < np.isnan(drawn).sum() < 200
    found = percentile_interval(2 / 3, drawn)
    assert 0 <= found.low < 2 / 3 < found.high <= 1
    assert np.isnan(percentile_interval(0.5, np.full(3, np.nan)).low)
