"""Whether a decision survives another view of the same picture, or another member."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from evaluation.discrimination import Bools, Estimate, Floats, wilson_interval


@dataclass(frozen=True, kw_only=True)
class Stability:
    """Share of images whose decision changes; the intervals are Wilson's, for images taken as independent."""

    images: int
    """Images with two scores or more."""
    flips: Estimate
    """Share of them whose decision is not the same in all."""
    against_mean: Estimate
    """Mean share that a single view or member decides otherwise than the ensemble."""


def stability(scores: Floats, threshold: ArrayLike, decision: Bools) -> Stability:
    """How decisions differ between the rows of scores [V, N], views or members; NaN is absent.

    A score of `threshold` or more (one, or one for each row [V]) is suspicious. `decision` [N] is the ensemble's.
    Images with fewer than two scores are left out. Raises ValueError for shapes that do not fit.
    """
    if scores.ndim != 2 or decision.shape != scores.shape[1:]:
        raise ValueError(f"scores have shape {scores.shape}, decision {decision.shape}: expected [V, N] and [N]")
    limits = np.broadcast_to(np.asarray(threshold, dtype=np.float64), len(scores))[:, None]
    present = ~np.isnan(scores)
    counted = present.sum(axis=0) >= 2
    known, suspicious = present[:, counted], (scores >= limits)[:, counted]
    some, all_of_them = (suspicious & known).any(axis=0), (suspicious | ~known).all(axis=0)
    otherwise = ((suspicious != decision[counted]) & known).sum(axis=0) / known.sum(axis=0)
    images = int(counted.sum())
    return Stability(
        images=images,
        flips=wilson_interval(int((some & ~all_of_them).sum()), images),
        against_mean=wilson_interval(float(otherwise.sum()), images),
    )
