"""Many members, one score: the mean probability, which stays a probability, and the mean rank, which does not."""

import numpy as np
from numpy.typing import ArrayLike

from evaluation.metrics import Floats, midranks


def sigmoid(logit: ArrayLike) -> Floats:
    """1 / (1 + exp(-logit)) in float64, of any shape; no overflow at either end, NaN stays NaN."""
    logits = np.asarray(logit, dtype=np.float64)
    small = np.exp(-np.abs(logits))
    probability: Floats = np.where(logits >= 0, 1.0, small) / (1 + small)
    return probability


def mean_probability(members: ArrayLike) -> Floats:
    """Mean [N] over K members of their probabilities [K, N].

    Raises ValueError for no member, another shape, NaN, or values outside 0 to 1.
    """
    probabilities = _member_table(members)
    if probabilities.size and not (probabilities.min() >= 0 and probabilities.max() <= 1):
        raise ValueError("members holds values outside 0 to 1: pass probabilities, not logits")
    mean: Floats = probabilities.mean(axis=0)
    return mean


def rank_mean(members: ArrayLike) -> Floats:
    """Mean [N] over K members of their scores' midranks divided by N, above 0 and up to 1.

    It orders samples when members differ in scale; it is no probability, and it depends on the other samples.
    Raises ValueError for no member, another shape, or NaN.
    """
    scores = _member_table(members)
    mean: Floats = np.stack([midranks(row) for row in scores]).mean(axis=0) / max(scores.shape[1], 1)
    return mean


def _member_table(members: ArrayLike) -> Floats:
    table = np.asarray(members, dtype=np.float64)
    if table.ndim != 2 or len(table) == 0:
        raise ValueError(f"members has shape {table.shape}: [members, samples] with a member or more is expected")
    if np.isnan(table).any():
        raise ValueError(f"members holds NaN, first in member {int(np.isnan(table).any(axis=1).argmax())}")
    return table
