"""What every threshold of a score finds and what it costs, for many weightings of the groups at once.

A score is sorted once, and samples of a group with the same place in that order become one number. After that a
bootstrap's draw costs two cumulative sums, from which AUC, average precision, partial AUC and both curves follow. Ties
between the classes are a slope in the ROC curve, so that they count one half.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

from evaluation.discrimination import Floats


@dataclass(frozen=True, kw_only=True, eq=False)
class Counts:
    """Samples beyond each of the U distinct scores of positives, the highest first, in D weightings."""

    at: Floats
    """Positives with this very score [U, D]."""
    hits: Floats
    """Positives with this score or a higher one [U, D]."""
    above: Floats
    """Negatives with a higher score [U, D]."""
    alarms: Floats
    """Negatives with this score or a higher one [U, D]."""
    negatives: Floats
    """All of them [D]."""

    @property
    def positives(self) -> Floats:
        """All of them [D]."""
        return np.asarray(self.at.sum(axis=0))

    @property
    def pairs(self) -> Floats:
        """Pairs of a positive and a negative [D]."""
        return self.positives * self.negatives

    @property
    def concordant(self) -> Floats:
        """Pairs whose positive scores higher, and half of those level [D]."""
        return np.asarray((self.at * (self.negatives - (self.above + self.alarms) / 2)).sum(axis=0))


class Ranking:
    """The samples of each group [N] in the order of their score [N]; those whose score is NaN are left out."""

    def __init__(self, target: ArrayLike, score: ArrayLike, group: ArrayLike) -> None:
        scores, truth = np.asarray(score, dtype=np.float64), np.asarray(target).astype(bool)
        positive, negative = (np.flatnonzero(rows & ~np.isnan(scores)) for rows in (truth, ~truth))
        falling, place = np.unique(-scores[positive], return_inverse=True)
        self.thresholds: Floats = -falling
        """The distinct scores of positives [U], falling."""
        # Places of the negatives: 2k lies between the thresholds k - 1 and k, 2k + 1 at the threshold k. Where no class
        # ties with the other, half of the places are empty and left out.
        low, high = (np.searchsorted(falling, -scores[negative], side) for side in ("left", "right"))
        number, groups = group_numbers(group)
        self._positives = incidence(place, number[positive], (len(falling), groups))
        self._step = 2 if (low != high).any() else 1
        place = low + high if self._step == 2 else low
        self._negatives = incidence(place, number[negative], (self._step * len(falling) + 1, groups))

    def counts(self, times: Floats) -> Counts:
        """With each of the G groups counted so many times [G, D]."""
        at = self._positives @ times
        falling, step = np.cumsum(self._negatives @ times, axis=0), self._step
        return Counts(
            at=at,
            hits=np.cumsum(at, axis=0),
            above=falling[:-1:step],
            alarms=falling[step - 1 : -1 : step],
            negatives=falling[-1],
        )


def group_numbers(group: ArrayLike) -> tuple[NDArray[np.intp], int]:
    """Each sample's group as a number from 0 [N], in the order of their names, and how many groups there are."""
    names = np.asarray(group)
    found, number = np.unique(names if names.dtype.kind in "biu" else names.astype(str), return_inverse=True)
    return number, len(found)


def incidence(row: NDArray[np.intp], column: NDArray[np.intp], shape: tuple[int, int]) -> csr_array:
    """How often each (row, column) occurs, as a matrix of `shape`."""
    return csr_array((np.ones(len(row)), (row, column)), shape=shape)


def ratio(part: Floats, whole: Floats) -> Floats:
    """part / whole, NaN where there is nothing."""
    found: Floats = np.full(np.broadcast(part, whole).shape, np.nan)
    return np.divide(part, whole, out=found, where=np.asarray(whole) > 0)


def auc_of(counts: Counts) -> Floats:
    """Probability that a positive scores above a negative, ties one half [D]; NaN without both classes."""
    return ratio(counts.concordant, counts.pairs)


def average_precision_of(counts: Counts) -> Floats:
    """Mean over the positives of the precision at their own score [D], as sklearn's average_precision_score.

    A score without skill has the prevalence. NaN without both classes.
    """
    called = counts.hits + counts.alarms
    precision = np.divide(counts.hits, called, out=np.zeros_like(called), where=called > 0)
    found = ratio((counts.at * precision).sum(axis=0), counts.positives)
    return np.where(counts.negatives > 0, found, np.nan)


def partial_auc_of(counts: Counts, least: float = 0.8) -> Floats:
    """Area between the ROC curve and the line at sensitivity `least` [D], 0 to 1 - least; NaN without both classes.

    With 0.8 it is the score of the ISIC 2024 challenge, 0 to 0.2; no skill gives (1 - least)^2 / 2, 0.02.
    """
    reached = (counts.hits >= least * counts.positives).any(axis=1)  # the area has no other rows
    after = ratio(counts.hits[reached], counts.positives)
    before = ratio(counts.hits[reached] - counts.at[reached], counts.positives)
    spared = [1 - ratio(rows[reached], counts.negatives) for rows in (counts.above, counts.alarms)]
    start = np.clip(least, before, after)
    way = np.nan_to_num(ratio(start - before, after - before))
    at_start = spared[0] + way * (spared[1] - spared[0])
    area = ((after - start) * (at_start + spared[1]) / 2).sum(axis=0)
    return np.where(counts.pairs > 0, area, np.nan)


def sensitivity_at(counts: Counts, false_alarm_rates: Floats) -> Floats:
    """Sensitivity of the ROC curve at each of K false-alarm rates [D, K]; NaN without both classes."""
    # A vertex before and after each threshold: level ones rise and move right at once.
    x = np.repeat(counts.alarms, 2, axis=0)
    x[::2] = counts.above
    y = np.repeat(counts.hits, 2, axis=0)
    y[::2] -= counts.at
    found = np.full((len(counts.negatives), len(false_alarm_rates)), np.nan)
    for draw in np.flatnonzero(counts.pairs > 0):
        rates = np.append(x[:, draw], counts.negatives[draw]) / counts.negatives[draw]
        shares = np.append(y[:, draw], y[-1, draw]) / y[-1, draw]
        found[draw] = np.interp(false_alarm_rates, rates, shares)
    return found


def precision_at(counts: Counts, sensitivities: Floats) -> Floats:
    """Precision of the highest threshold that reaches each of K sensitivities [D, K]; NaN without both classes."""
    found = np.full((len(counts.negatives), len(sensitivities)), np.nan)
    precision = ratio(counts.hits, counts.hits + counts.alarms)
    for draw in np.flatnonzero(counts.pairs > 0):
        wanted = np.maximum(sensitivities * counts.positives[draw] - 1e-9, 1e-9)
        found[draw] = precision[np.searchsorted(counts.hits[:, draw], wanted), draw]
    return found
