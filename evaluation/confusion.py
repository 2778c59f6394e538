"""What a threshold decides: counts, sensitivity, specificity and predictive values, with intervals over groups."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from evaluation.bootstrap import bootstrapped_sums, percentile_interval
from evaluation.discrimination import Bools, Estimate, Floats
from evaluation.ranking import ratio


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """Decisions at one threshold; the intervals draw whole groups and hold the threshold."""

    threshold: float
    """A score of this or more is suspicious."""
    hits: int
    """Positives that are suspicious."""
    misses: int
    """Positives that are not."""
    alarms: int
    """Negatives that are suspicious."""
    spared: int
    """Negatives that are not."""
    sensitivity: Estimate
    """hits / positives; NaN without any, and so on."""
    specificity: Estimate
    """spared / negatives."""
    ppv: Estimate
    """hits / suspicious: depends on the share of positives here."""
    npv: Estimate
    """spared / not suspicious: likewise."""


def confusions(
    target: Bools,
    score: Floats,
    thresholds: Sequence[float],
    group: ArrayLike,
    *,
    draws: int = 1000,
    seed: int = 0,
) -> tuple[Confusion, ...]:
    """What each threshold decides on target [N] and score [N]; a sample whose score is NaN does not count.

    A percentile interval has no width where all are decided alike.
    """
    counted = ~np.isnan(score)
    decided = [score >= threshold for threshold in thresholds]
    columns = [
        counted & part
        for flagged in decided
        for part in (target & flagged, target & ~flagged, ~target & flagged, ~target & ~flagged)
    ]
    table = np.stack(columns, axis=1).astype(np.float64)
    drawn = bootstrapped_sums(table, group, draws=draws, seed=seed)
    parts = zip(thresholds, np.split(table.sum(axis=0), len(thresholds)), _by_four(drawn), strict=True)
    return tuple(_confusion(threshold, counts, each) for threshold, counts, each in parts)


def _by_four(drawn: Floats) -> list[Floats]:
    return np.split(drawn, drawn.shape[1] // 4, axis=1)


def _confusion(threshold: float, counts: Floats, drawn: Floats) -> Confusion:
    hits, misses, alarms, spared = (int(count) for count in counts)

    def share(part: int, rest: int) -> Estimate:
        value = float(ratio(counts[part], counts[part] + counts[rest])[()])
        return percentile_interval(value, ratio(drawn[:, part], drawn[:, part] + drawn[:, rest]))

    return Confusion(
        threshold=threshold,
        hits=hits,
        misses=misses,
        alarms=alarms,
        spared=spared,
        sensitivity=share(0, 1),
        specificity=share(3, 2),
        ppv=share(0, 2),
        npv=share(3, 1),
    )
