"""One score from many members: their mean probability, which is still a probability."""

import numpy as np
from numpy.typing import ArrayLike

from evaluation.metrics import Floats


def mean_probability(members: ArrayLike) -> Floats:
    """Mean [N] of the probabilities [K, N] of K members.

    Raises ValueError for no members, another shape, NaN, or values outside 0 to 1.
    """
    probabilities = _member_table(members)
    if probabilities.size and not (probabilities.min() >= 0 and probabilities.max() <= 1):
        raise ValueError("members holds values outside 0 to 1: pass probabilities, not logits")
    mean: Floats = probabilities.mean(axis=0)
    return mean


def _member_table(members: ArrayLike) -> Floats:
    table = np.asarray(members, dtype=np.float64)
    if table.ndim != 2 or len(table) == 0:
        raise ValueError(f"members has shape {table.shape}: expected [members, samples] with at least one member")
    if np.isnan(table).any():
        raise ValueError(f"members holds NaN, first in member {int(np.isnan(table).any(axis=1).argmax())}")
    return table
