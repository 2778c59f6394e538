"""Intervals by resampling whole groups (patients, lesions), for metrics without a closed-form interval."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evaluation.metrics import Bools, Estimate, Floats, auc


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
    ranks = [[np.unique(row, return_inverse=True)[1] for row in system] for system in scores]
    _, member = np.unique(np.asarray(group).astype(str), return_inverse=True)
    groups, rng = int(member.max()) + 1, np.random.Generator(np.random.Philox(seed))
    found = []
    for _ in range(draws):
        weight = np.bincount(rng.integers(groups, size=groups), minlength=groups)[member].astype(np.float64)
        if weight[truth].any() and weight[~truth].any():
            first, second = (_drawn_auc(truth, system, weight, rng) for system in ranks)
            found.append(first - second)
    means = [float(np.mean([auc(truth, row) for row in system])) for system in scores]
    low, high = np.quantile(found, (0.025, 0.975))
    return Estimate(means[0] - means[1], float(low), float(high))


def _drawn_auc(truth: Bools, ranks: list[NDArray[np.intp]], weight: Floats, rng: np.random.Generator) -> float:
    """Mean AUC over S seeds drawn with replacement."""
    drawn, times = np.unique(rng.integers(len(ranks), size=len(ranks)), return_counts=True)
    return float(np.average([weighted_auc(truth, ranks[number], weight) for number in drawn], weights=times))


def weighted_auc(truth: Bools, ranks: NDArray[np.intp], weight: Floats) -> float:
    """AUC from dense ranks [N] (from 0, ties equal), each sample counted `weight` times; ranks are sorted once."""
    positive = np.bincount(ranks, weight * truth)
    negative = np.bincount(ranks, weight * ~truth)
    below = np.cumsum(negative) - negative
    return float((positive * (below + negative / 2)).sum() / (positive.sum() * negative.sum()))
