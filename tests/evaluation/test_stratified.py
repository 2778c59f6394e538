"""AUCs within strata against counted pairs, their intervals against DeLong's and the bootstrap."""

import itertools
import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from evaluation.discrimination import auc_interval
from evaluation.stratified import clustered_interval, stratified_auc


def case(samples: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Targets, scores with ties and some NaN, strata, and groups of three within a stratum."""
    rng = np.random.default_rng(seed)
    group = np.arange(samples) // 3
    mood = rng.normal(size=samples)[group]
    target = (rng.random(samples) < 0.3)[group]
    score = np.round(target + mood + rng.normal(size=samples), 1)
    score[rng.random(samples) < 0.05] = np.nan
    return target, score, np.array(["a", "b", "c"])[group % 3], group


def counted(target: np.ndarray, score: np.ndarray, stratum: np.ndarray) -> tuple[float, int]:
    pairs = [
        (score[one] > score[other]) + (score[one] == score[other]) / 2
        for one, other in itertools.product(np.flatnonzero(target), np.flatnonzero(~target))
        if stratum[one] == stratum[other] and not np.isnan(score[one] + score[other])
    ]
    return float(np.mean(pairs)), len(pairs)


def known(target: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return target[~np.isnan(score)], score[~np.isnan(score)]


def test_it_is_the_share_of_pairs_of_a_stratum_in_the_right_order() -> None:
    target, score, stratum, _ = case(90)
    found = stratified_auc(target, score, stratum)
    assert (found.value, found.pairs) == (pytest.approx(counted(target, score, stratum)[0]), counted(*case(90)[:3])[1])


def test_the_influence_is_the_derivative_by_a_samples_weight() -> None:
    """Against a sample counted a little more often, in the definition."""
    target, score = known(*case(60)[:2])
    found, step = stratified_auc(target, score, np.zeros(len(score))), 1e-6
    for sample in range(len(score)):
        weight = np.ones(len(score))
        weight[sample] += step
        change = roc_auc_score(target, score, sample_weight=weight) - found.value
        assert found.influence[sample] == pytest.approx(change / step, abs=1e-5)


def test_with_one_stratum_and_groups_of_one_the_interval_is_delongs() -> None:
    target, score = known(*case(4000)[:2])
    found = stratified_auc(target, score, np.zeros(len(score)))
    interval, reference = (
        clustered_interval(found.value, found.influence, np.arange(len(score))),
        auc_interval(target, score),
    )
    assert interval.value == pytest.approx(reference.value)
    assert interval.low == pytest.approx(reference.low, abs=5e-4)
    assert interval.high == pytest.approx(reference.high, abs=5e-4)


def test_the_interval_over_groups_is_as_wide_as_that_of_the_bootstrap() -> None:
    target, score, _, group = case(3000)
    score = np.nan_to_num(score)
    found = stratified_auc(target, score, np.zeros(3000))
    interval = clustered_interval(found.value, found.influence, group)
    rng = np.random.default_rng(0)
    weights = (np.bincount(rng.integers(1000, size=1000), minlength=1000)[group] for _ in range(600))
    drawn = [roc_auc_score(target, score, sample_weight=weight) for weight in weights]
    deviation = (interval.high - interval.low) / 2 / 1.959964
    assert deviation == pytest.approx(np.std(drawn), rel=0.09)
    alone = clustered_interval(found.value, found.influence, np.arange(3000))
    assert alone.high - alone.low < 0.9 * (interval.high - interval.low), "members of a group are alike here"


def test_without_pairs_there_is_no_auc_and_with_one_group_no_interval() -> None:
    found = stratified_auc([0, 1], [0.1, 0.9], ["a", "b"])
    assert math.isnan(found.value)
    assert found.pairs == 0
    assert math.isnan(clustered_interval(found.value, found.influence, [1, 2]).low)
    found = stratified_auc([0, 1], [0.1, 0.9], ["a", "a"])
    assert found.value == 1
    assert math.isnan(clustered_interval(found.value, found.influence, ["x", "x"]).high)
