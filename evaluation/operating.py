"""Operating points: thresholds that reach a wanted sensitivity, and what they cost in specificity."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from evaluation.discrimination import Bools, Estimate, Floats, wilson_interval

WANTED = (0.80, 0.90, 0.95)
"""Sensitivities of the operating points."""


@dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """A threshold of the combined score (not of the calibrated one, which changes with source and prevalence).

    The intervals are Wilson's, for samples taken as independent.
    """

    wanted: float
    """Sensitivity that it is meant to reach, 0 to 1."""
    threshold: float
    """A score of this or more is suspicious; the largest one that reaches `wanted` on the rows it was fitted on."""
    sensitivity: Estimate
    """On those rows."""
    specificity: Estimate
    """On those rows."""
    held_out_sensitivity: Estimate | None = None
    """Of thresholds fitted on the other folds, pooled over the folds; None where that was impossible."""
    held_out_specificity: Estimate | None = None
    """Likewise."""

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> "OperatingPoint":
        """The point whose `dataclasses.asdict` was saved."""
        intervals = {name: Estimate(**value) for name, value in saved.items() if isinstance(value, Mapping)}
        return cls(**{**saved, **intervals})


def threshold_for(target: Bools, score: Floats, wanted: float) -> float:
    """The largest threshold at which the sensitivity on target [N] and score [N] is `wanted` or more.

    Raises ValueError without positives, or for a sensitivity outside 0 to 1.
    """
    positive = np.sort(score[target])[::-1]
    if not len(positive) or not 0 < wanted <= 1:
        raise ValueError(f"no threshold gives sensitivity {wanted} on {len(positive)} positives")
    # The subtrahend keeps 0.95 * 20 = 19.000000000000004 or its like from asking for one more.
    return float(positive[math.ceil(wanted * len(positive) - 1e-9) - 1])


def operating_point(
    target: Bools, score: Floats, wanted: float, threshold: float, held_out: Bools | None = None
) -> OperatingPoint:
    """The point at `threshold`, fitted on target [N] and score [N]; `held_out` [N] are the cross-fitted decisions."""
    fitted = sensitivity_and_specificity(target, score >= threshold)
    apart = (None, None) if held_out is None else sensitivity_and_specificity(target, held_out)
    return OperatingPoint(
        wanted=wanted,
        threshold=threshold,
        sensitivity=fitted[0],
        specificity=fitted[1],
        held_out_sensitivity=apart[0],
        held_out_specificity=apart[1],
    )


def sensitivity_and_specificity(target: Bools, decision: Bools) -> tuple[Estimate, Estimate]:
    """Both with their Wilson intervals, of target [N] and decision [N] (True for suspicious)."""
    positives, negatives = int(target.sum()), int((~target).sum())
    return (
        wilson_interval(int((target & decision).sum()), positives),
        wilson_interval(int((~target & ~decision).sum()), negatives),
    )


def threshold_for_specificity(target: Bools, score: Floats, wanted: float) -> float:
    """The smallest threshold at which the specificity on target [N] and score [N] is `wanted` or more.

    Raises ValueError without negatives, or for a specificity outside 0 to 1.
    """
    negative = np.sort(score[~target])
    if not len(negative) or not 0 < wanted <= 1:
        raise ValueError(f"no threshold gives specificity {wanted} on {len(negative)} negatives")
    return float(np.nextafter(negative[math.ceil(wanted * len(negative) - 1e-9) - 1], np.inf))
