import math

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from evaluation.confusion import confusions


def case(samples: int = 400) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    target = rng.random(samples) < 0.3
    return target, target + rng.normal(size=samples)


def test_the_counts_are_those_of_sklearn_and_the_shares_follow() -> None:
    target, score = case()
    for found, threshold in zip(confusions(target, score, [0.2, 1.0], np.arange(400)), (0.2, 1.0), strict=True):
        spared, alarms, misses, hits = confusion_matrix(target, score >= threshold).ravel()
        assert (found.hits, found.misses, found.alarms, found.spared) == (hits, misses, alarms, spared)
        assert found.sensitivity.value == pytest.approx(hits / target.sum())
        assert found.specificity.value == pytest.approx(spared / (~target).sum())
        assert found.ppv.value == pytest.approx(hits / (hits + alarms))
        assert found.npv.value == pytest.approx(spared / (spared + misses))
        for share in (found.sensitivity, found.specificity, found.ppv, found.npv):
            assert share.low < share.value < share.high


def test_the_intervals_of_single_samples_are_those_of_independent_trials() -> None:
    target, score = case(2000)
    (found,) = confusions(target, score, [0.5], np.arange(2000), draws=2000)
    share, count = found.sensitivity.value, target.sum()
    width = 2 * 1.96 * math.sqrt(share * (1 - share) / count)
    assert found.sensitivity.high - found.sensitivity.low == pytest.approx(width, rel=0.06)


def test_copies_of_a_sample_are_no_more_evidence_than_one() -> None:
    target, score = case(200)
    (once,) = confusions(target, score, [0.5], np.arange(200))
    (copied,) = confusions(*(np.repeat(each, 9) for each in (target, score)), [0.5], np.repeat(np.arange(200), 9))
    assert (copied.ppv.low, copied.ppv.high) == pytest.approx((once.ppv.low, once.ppv.high))


def test_samples_without_a_score_do_not_count() -> None:
    target, score = case()
    left = np.where(np.arange(400) % 3 == 0, np.nan, score)
    known = ~np.isnan(left)
    (found,) = confusions(target, left, [0.5], np.arange(400))
    spared, alarms, misses, hits = confusion_matrix(target[known], score[known] >= 0.5).ravel()
    assert (found.hits, found.misses, found.alarms, found.spared) == (hits, misses, alarms, spared)


def test_a_threshold_above_all_scores_has_no_ppv() -> None:
    target, score = case()
    (found,) = confusions(target, score, [99.0], np.arange(400))
    assert math.isnan(found.ppv.value)
    assert math.isnan(found.ppv.low)
    assert found.sensitivity.value == 0
