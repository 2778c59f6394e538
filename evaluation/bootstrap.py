"""Intervals by resampling whole groups (patients, lesions), for metrics without a closed-form interval.

The draws are a function of the groups and the seed: calls with the same two see the same draws, so that their figures
may be subtracted draw by draw.
"""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike

from evaluation.discrimination import Estimate, Floats, auc
from evaluation.ranking import Ranking, auc_of, group_numbers, incidence

Statistic = Callable[[Floats], Floats]
"""A metric as a function of how often each group counts in D draws, float64 [G, D]: [D], or [D, K] for K figures.

The groups are numbered as `ranking.group_numbers` does."""
_CACHED, _HELD = 1 << 18, 1 << 22  # counts in a block that stays in the processor's cache, or merely in memory


def bootstrapped(statistics: Sequence[Statistic], group: ArrayLike, *, draws: int = 1000, seed: int = 0) -> Floats:
    """Every figure of every statistic in every draw, float64 [draws, figures].

    A draw samples groups [N] with replacement, as many as there are. Source: Field, Welsh, "Bootstrapping clustered
    data", Journal of the Royal Statistical Society B 69(3), 2007, 369-390.
    """
    _, groups = group_numbers(group)
    found = []
    for drawn in _blocks(groups, draws, seed, _CACHED):
        times = np.ascontiguousarray(drawn.T)
        found.append(np.column_stack([statistic(times) for statistic in statistics]))
    return np.concatenate(found)


def bootstrapped_sums(columns: Floats, group: ArrayLike, *, draws: int = 1000, seed: int = 0) -> Floats:
    """Sums over the samples of K columns [N, K] in every draw, float64 [draws, K]: the draws of `bootstrapped`."""
    number, groups = group_numbers(group)
    totals = incidence(number, np.arange(len(number)), (groups, len(number))) @ columns
    return np.concatenate([times @ totals for times in _blocks(groups, draws, seed, _HELD)])


def auc_statistic(target: ArrayLike, score: ArrayLike, group: ArrayLike) -> Statistic:
    """The AUC over the samples whose `score` [N] is not NaN, ties one half; NaN for a draw without both classes."""
    ranking = Ranking(target, score, group)
    return lambda times: auc_of(ranking.counts(times))


def percentile_interval(value: float, drawn: Floats) -> Estimate:
    """`value` with the 95 % percentile interval of its draws [D]; draws that are NaN are left out."""
    known = drawn[~np.isnan(drawn)]
    if not len(known):
        return Estimate(value, math.nan, math.nan)
    low, high = np.quantile(known, (0.025, 0.975))
    return Estimate(value, float(low), float(high))


def standard_error(drawn: Floats) -> float:
    """Spread of the draws [D] of a figure, without those that are NaN; NaN with fewer than two others."""
    known = drawn[~np.isnan(drawn)]
    return float(known.std(ddof=1)) if len(known) > 1 else math.nan


def estimated(
    statistics: Sequence[Statistic], group: ArrayLike, *, draws: int = 1000, seed: int = 0
) -> tuple[list[Estimate], Floats]:
    """Every figure of every statistic with its 95 % percentile interval over groups [N], and the draws of all."""
    once = np.ones((group_numbers(group)[1], 1))
    values = np.column_stack([statistic(once) for statistic in statistics])[0]
    drawn = bootstrapped(statistics, group, draws=draws, seed=seed)
    return [percentile_interval(float(value), column) for value, column in zip(values, drawn.T, strict=True)], drawn


def auc_difference_over_seeds(
    target: ArrayLike, a: ArrayLike, b: ArrayLike, group: ArrayLike, *, draws: int = 2000, seed: int = 0
) -> Estimate:
    """Mean over seeds of auc(a) - auc(b), with its 95 % percentile interval over groups and seeds.

    target [N] is 0 or 1; a and b [S, N] are the scores of two systems trained from S seeds each; group [N] says which
    samples must be drawn together. Each draw samples groups with replacement, the same ones for both systems, and seeds
    with replacement for each system separately, since the seeds of two systems are unrelated. Draws without both
    classes are left out. Source: Efron, Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """
    systems = [np.atleast_2d(np.asarray(system, dtype=np.float64)) for system in (a, b)]
    rng = np.random.Generator(np.random.Philox([seed, 1]))
    values, means = [], []
    for system in systems:
        values.append(float(np.mean([auc(target, row) for row in system])))
        aucs = bootstrapped([auc_statistic(target, row, group) for row in system], group, draws=draws, seed=seed)
        chosen = rng.integers(len(system), size=aucs.shape)
        means.append(np.take_along_axis(aucs, chosen, axis=1).mean(axis=1))
    return percentile_interval(values[0] - values[1], means[0] - means[1])


def _blocks(groups: int, draws: int, seed: int, held: int) -> Iterator[Floats]:
    """How often each group counts [D, G], in blocks of about as many counts as are `held` at once."""
    rng = np.random.Generator(np.random.Philox(seed))
    size = max(held // groups, 1)
    for start in range(0, draws, size):
        times = np.empty((min(size, draws - start), groups))
        for row in times:
            row[:] = np.bincount(rng.integers(groups, size=groups), minlength=groups)
        yield times
