"""Intervals by resampling whole groups (patients, lesions), for metrics without a closed-form interval."""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evaluation.discrimination import Estimate, Floats, auc

Statistic = Callable[[Floats], float]
"""A metric as a function of how often each sample counts, float64 [N]."""
_SIDES: tuple[Literal["left"], Literal["right"]] = ("left", "right")


def bootstrapped(statistics: Sequence[Statistic], group: ArrayLike, *, draws: int = 1000, seed: int = 0) -> Floats:
    """Every statistic of every draw, float64 [draws, statistics].

    A draw samples groups [N] with replacement. All statistics see the same draws, so that their differences are paired.
    """
    number, groups = _numbered(group)
    rng = np.random.Generator(np.random.Philox(seed))
    weights = (_group_weights(number, groups, rng) for _ in range(draws))
    return np.array([[statistic(weight) for statistic in statistics] for weight in weights], dtype=np.float64)


def auc_statistic(target: ArrayLike, score: ArrayLike) -> Statistic:
    """The AUC over the samples whose `score` [N] is not NaN, ties one half; NaN for a draw without both classes."""
    scores, truth = np.asarray(score, dtype=np.float64), np.asarray(target).astype(bool)
    known = ~np.isnan(scores)
    positive, negative = np.flatnonzero(truth & known), np.flatnonzero(~truth & known)
    negative = negative[np.argsort(scores[negative])]
    # What is sorted once here: how many of the negatives lie below each positive, and how many below or level.
    below, not_above = (np.searchsorted(scores[negative], scores[positive], side) for side in _SIDES)

    def drawn(weight: Floats) -> float:
        counted, beaten = weight[positive], np.append(0.0, np.cumsum(weight[negative]))
        pairs = float(counted.sum() * beaten[-1])
        return float(counted @ (beaten[below] + beaten[not_above])) / (2 * pairs) if pairs else math.nan

    return drawn


def percentile_interval(value: float, drawn: Floats) -> Estimate:
    """`value` with the 95 % percentile interval of its draws [D]; draws that are NaN are left out."""
    known = drawn[~np.isnan(drawn)]
    if not len(known):
        return Estimate(value, math.nan, math.nan)
    low, high = np.quantile(known, (0.025, 0.975))
    return Estimate(value, float(low), float(high))


def auc_difference_over_seeds(
    target: ArrayLike, a: ArrayLike, b: ArrayLike, group: ArrayLike, *, draws: int = 2000, seed: int = 0
) -> Estimate:
    """Mean over seeds of auc(a) - auc(b), with its 95 % percentile interval over groups and seeds.

    target [N] is 0 or 1; a and b [S, N] are the scores of two systems trained from S seeds each; group [N] says which
    samples must be drawn together. Each draw samples groups with replacement, the same ones for both systems, and seeds
    with replacement for each system separately, since the seeds of two systems are unrelated. Draws without both
    classes are left out. Source: Efron, Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """
    truth = np.asarray(target).astype(bool)
    scores = [np.atleast_2d(np.asarray(system, dtype=np.float64)) for system in (a, b)]
    statistics = [[auc_statistic(truth, row) for row in system] for system in scores]
    number, groups = _numbered(group)
    rng = np.random.Generator(np.random.Philox(seed))
    found = []
    for _ in range(draws):
        weight = _group_weights(number, groups, rng)
        if weight[truth].any() and weight[~truth].any():
            first, second = (_mean_over_seeds(system, weight, rng) for system in statistics)
            found.append(first - second)
    means = [float(np.mean([auc(truth, row) for row in system])) for system in scores]
    return percentile_interval(means[0] - means[1], np.array(found))


def _numbered(group: ArrayLike) -> tuple[NDArray[np.intp], int]:
    """Each sample's group as a number from 0 [N], and how many groups there are."""
    names, number = np.unique(np.asarray(group).astype(str), return_inverse=True)
    return number, len(names)


def _group_weights(number: NDArray[np.intp], groups: int, rng: np.random.Generator) -> Floats:
    """How often each sample [N] is in one draw of as many groups as there are."""
    times = np.bincount(rng.integers(groups, size=groups), minlength=groups)
    return times[number].astype(np.float64)


def _mean_over_seeds(statistics: list[Statistic], weight: Floats, rng: np.random.Generator) -> float:
    """Mean of S statistics drawn with replacement, one for each seed."""
    drawn, times = np.unique(rng.integers(len(statistics), size=len(statistics)), return_counts=True)
    return float(np.average([statistics[number](weight) for number in drawn], weights=times))
