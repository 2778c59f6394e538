"""Intervals by resampling whole groups (patients, lesions), for metrics without a closed-form interval."""

import numpy as np
import numpy.typing as npt
from numpy.typing import ArrayLike

from evaluation.metrics import Estimate, Floats, auc


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
    first, second = (_Ranked(truth, np.atleast_2d(np.asarray(scores, dtype=np.float64))) for scores in (a, b))
    _, member = np.unique(np.asarray(group).astype(str), return_inverse=True)
    groups, rng = int(member.max()) + 1, np.random.Generator(np.random.Philox(seed))
    found = []
    for _ in range(draws):
        weight = np.bincount(rng.integers(groups, size=groups), minlength=groups)[member].astype(np.float64)
        if weight[truth].any() and weight[~truth].any():
            found.append(first.draw(weight, rng) - second.draw(weight, rng))
    value = np.mean([auc(truth, row) for row in first.scores]) - np.mean([auc(truth, row) for row in second.scores])
    low, high = np.quantile(found, (0.025, 0.975))
    return Estimate(float(value), float(low), float(high))


class _Ranked:
    """Scores [S, N] sorted once, for many AUCs under weights."""

    def __init__(self, truth: npt.NDArray[np.bool_], scores: Floats) -> None:
        self.scores = scores
        self._truth = truth
        self._places = [np.unique(row, return_inverse=True)[1] for row in scores]

    def draw(self, weight: Floats, rng: np.random.Generator) -> float:
        """Mean AUC over S seeds drawn with replacement, each sample counted `weight` times."""
        drawn, times = np.unique(rng.integers(len(self.scores), size=len(self.scores)), return_counts=True)
        aucs = [self._weighted_auc(self._places[number], weight) for number in drawn]
        return float(np.average(aucs, weights=times))

    def _weighted_auc(self, places: npt.NDArray[np.intp], weight: Floats) -> float:
        positive = np.bincount(places, weight * self._truth)
        negative = np.bincount(places, weight * ~self._truth)
        below = np.cumsum(negative) - negative
        return float((positive * (below + negative / 2)).sum() / (positive.sum() * negative.sum()))
