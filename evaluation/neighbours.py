"""The closest pairs of pictures that lie in different folds, by their embeddings: candidates for missed duplicates."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evaluation.discrimination import Floats

_BLOCK = 1024  # pictures compared with all others at a time: bounds memory at 4 bytes x 1024 x N


@dataclass(frozen=True, kw_only=True, eq=False)
class Neighbours:
    """Pairs of pictures, the closest first."""

    first: NDArray[np.int64]
    """Row of one picture of each pair [P]."""
    second: NDArray[np.int64]
    """Row of the other [P], above that of the first."""
    distance: Floats
    """1 - cosine similarity [P], from 0 to 2."""


def closest_across(vectors: ArrayLike, fold: ArrayLike, count: int) -> Neighbours:
    """The `count` closest pairs, as far as there are so many, of embeddings [N, F] whose folds [N] differ.

    All pairs are compared, in blocks. They are ranked by cosine distance as SelfClean ranks them: F. Groeger et al.,
    "Intrinsic Self-Supervision for Data Quality Audits", NeurIPS 2024. Raises ValueError for embeddings that are not
    finite or all 0.
    """
    unit, folds = unit_vectors(vectors), np.asarray(fold)
    pairs, similarity = np.empty((0, 2), dtype=np.int64), np.empty(0, dtype=np.float32)
    for start in range(0, len(unit), _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, len(unit)))
        # Later rows only: each pair is met once.
        near = unit[rows] @ unit[start:].T
        near[(folds[rows, None] == folds[start:]) | (np.arange(start, len(unit)) <= rows[:, None])] = -np.inf
        best = np.argpartition(near, -min(count, near.size), axis=None)[-min(count, near.size) :]
        here, there = np.unravel_index(best, near.shape)
        pairs = np.concatenate([pairs, np.stack([rows[here], start + there], axis=1)])
        similarity = np.concatenate([similarity, near.ravel()[best]])
        order = np.argsort(-similarity, kind="stable")[:count]
        pairs, similarity = pairs[order], similarity[order]
    met = np.isfinite(similarity)
    return Neighbours(first=pairs[met, 0], second=pairs[met, 1], distance=1 - similarity[met].astype(np.float64))


def unit_vectors(vectors: ArrayLike) -> NDArray[np.float32]:
    """Embeddings [N, F] at length 1, float32. Raises ValueError for one that is not finite or all 0."""
    given = np.asarray(vectors, dtype=np.float32)
    length = np.linalg.norm(given, axis=1, keepdims=True)
    wrong = np.flatnonzero(~np.isfinite(length[:, 0]) | (length[:, 0] == 0))
    if len(wrong):
        raise ValueError(f"the embedding of row {wrong[0]} is not finite or all 0 ({len(wrong)} such rows)")
    return np.asarray(given / length)
