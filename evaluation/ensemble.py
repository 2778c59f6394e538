"""One score from many members: their mean probability, which is still a probability."""

import numpy as np
from numpy.typing import ArrayLike

from evaluation.metrics import Floats


def mean_probability(members: ArrayLike) -> Floats:
    """Mean [N] of the probabilities [K, N] of K members.

    Raises ValueError for no members, another shape, NaN, or values outside 0 to 1.
    """
    table = np.asarray(members, dtype=np.float64)
    if table.ndim != 2 or len(table) == 0:
        raise ValueError(f"members has shape {table.shape}: expected [members, samples] with at least one member")
    if np.isnan(table).any():
        raise ValueError(f"members holds NaN, first in member {int(np.isnan(table).any(axis=1).argmax())}")
    if ((table < 0) | (table > 1)).any():
        raise ValueError("members holds values outside 0 to 1: pass probabilities, not logits")
    mean: Floats = table.mean(axis=0)
    return mean
