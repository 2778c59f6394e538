"""Which images show the same picture: a perceptual hash finds candidates, pixel correlation decides.

The hash holds the signs of 64 of the lowest DCT coefficients of the grey 32 x 32 thumbnail (prep/images.py). Two images
are candidates where their hashes agree in all bits of any of 32 random subsets (locality-sensitive hashing by bit
sampling: Indyk and Motwani, 1998). The subsets grow with the logarithm of the number of images, so the work stays
near-linear. Correlation of all pixels alone would call many round dark moles on pale skin the same, so the fine
structure must agree too: what a Gaussian blur removes, with its peaks clipped (a vignette's edge is a peak).
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from prep.images import THUMB, Pixels

CORRELATION = 0.98
"""Least correlation of two images of the same picture."""
DETAIL = 0.92
"""Least correlation of their fine structure. Measured on 4,935 ISIC images: pairs of different lesions reach 0.88, a
picture and its copy at JPEG quality 75 or at 96 x 96 pixels fall below 0.92 in under 1 % of cases."""

_FLAT = 2.0  # standard deviation in grey levels, below which nothing of a picture can be recognised
_BLUR = 2.0  # sigma in pixels of the 32 x 32 picture
_CLIP = 2.0  # peaks are clipped at this many medians of the absolute fine structure
_BLOCK = 128  # pairs whose thumbnails are in memory at a time
_SUBSETS = 32
_APART = 10  # most differing bits of two candidates: a copy at JPEG quality 30 has 6 in the worst of 100 cases
# Coefficients that are even along both axes describe a dark middle, which most lesions have: no information.
_LOWEST = sorted((row + column, row, column) for row in range(16) for column in range(16) if row % 2 or column % 2)[:64]
_ROWS, _COLUMNS = (np.array([place[axis] for place in _LOWEST]) for axis in (1, 2))

Rows = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]
Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Pairs:
    """Verified pairs: `rows` int64 [P, 2] (first below second), their `correlation` and `detail`, float32 [P]."""

    rows: Rows
    correlation: Vectors
    detail: Vectors


NO_PAIRS = Pairs(np.empty((0, 2), np.int64), np.empty(0, np.float32), np.empty(0, np.float32))


def are_flat(thumbs: Pixels) -> npt.NDArray[np.bool_]:
    """Whether each thumbnail (uint8 [N, 32, 32]) is too flat to be recognised, bool [N]."""
    return np.asarray(thumbs.std(axis=(1, 2), dtype=np.float32) < _FLAT)


def perceptual_hashes(thumbs: Pixels) -> Hashes:
    """uint8 [N, 32, 32] -> 64 bits each, uint64 [N]."""
    coefficients = [cv2.dct(one)[_ROWS, _COLUMNS] for one in thumbs.astype(np.float32)]
    bits = np.packbits(np.array(coefficients).reshape(-1, 64) > 0, axis=1)
    return bits.view("<u8").reshape(-1).astype(np.uint64)


def find_pairs(hashes: Hashes, thumbs: Callable[[Rows], Pixels]) -> Pairs:
    """All pairs among N images that show the same picture, from their hashes, uint64 [N], and a function from row
    numbers to thumbnails, uint8 [n, 32, 32]."""
    near = _candidates(hashes)
    parts = [_verified(part, thumbs) for part in np.array_split(near, -(-len(near) // _BLOCK) or 1)]
    return Pairs(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def _candidates(hashes: Hashes) -> Rows:
    """Pairs of rows that agree in a subset of bits, int64 [P, 2], each once, sorted."""
    bits = min(60, max(16, int(np.ceil(np.log2(len(hashes) + 1))) + 2))
    rng = np.random.default_rng(0)
    found = [_in_same_bucket(hashes, rng.permutation(64)[:bits]) for _ in range(_SUBSETS)]
    pairs = np.sort(np.concatenate(found), axis=1)
    codes = np.unique(pairs[:, 0] * len(hashes) + pairs[:, 1])
    return np.stack(np.divmod(codes, max(1, len(hashes))), axis=1)


def _in_same_bucket(hashes: Hashes, bits: npt.NDArray[np.int64]) -> Rows:
    code = hashes & np.bitwise_or.reduce(np.uint64(1) << bits.astype(np.uint64))
    order = np.argsort(code, kind="stable")
    code = code[order]
    pairs = [np.empty((0, 2), dtype=np.int64)]
    for apart in range(1, len(code)):
        same = np.flatnonzero(code[apart:] == code[:-apart])
        if not len(same):
            break
        left, right = order[same], order[same + apart]
        close = np.bitwise_count(hashes[left] ^ hashes[right]) <= _APART
        pairs.append(np.stack([left[close], right[close]], axis=1))
    return np.concatenate(pairs)


def _verified(pairs: Rows, thumbs: Callable[[Rows], Pixels]) -> tuple[Rows, Vectors, Vectors]:
    if not len(pairs):
        return NO_PAIRS.rows, NO_PAIRS.correlation, NO_PAIRS.detail
    rows, place = np.unique(pairs, return_inverse=True)
    left, right = place.reshape(-1, 2).T
    pictures = thumbs(rows)
    correlation = _products(_unit(pictures), left, right)
    same = correlation >= CORRELATION
    pairs, correlation, left, right = pairs[same], correlation[same], left[same], right[same]
    ends = np.unique(np.concatenate([left, right]))  # of the others the fine structure is not needed
    fine = _unit(_fine_structure(pictures[ends])) if len(ends) else np.empty((0, THUMB * THUMB), dtype=np.float32)
    detail = _products(fine, np.searchsorted(ends, left), np.searchsorted(ends, right))
    same = detail >= DETAIL
    return pairs[same], correlation[same], detail[same]


def _products(vectors: Vectors, left: Rows, right: Rows) -> Vectors:
    return np.asarray(np.einsum("ij,ij->i", vectors[left], vectors[right]))


def _fine_structure(pictures: Pixels) -> Vectors:
    grey = pictures.astype(np.float32)
    fine = np.stack([one - cv2.GaussianBlur(one, (0, 0), _BLUR) for one in grey])
    limit = _CLIP * (np.median(np.abs(fine), axis=(1, 2), keepdims=True) + 0.5)
    return np.asarray(np.clip(fine, -limit, limit))


def _unit(pictures: npt.NDArray[np.generic]) -> Vectors:
    """[n, 32, 32] -> float32 [n, 1024] without the mean, at length 1."""
    flat = pictures.reshape(len(pictures), THUMB * THUMB).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    return np.asarray(flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6), dtype=np.float32)
