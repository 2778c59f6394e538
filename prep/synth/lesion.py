"""One synthetic dermoscopy picture: skin, a pigmented lesion, light and hairs.

Only two numbers of a picture affect the label: `a` makes the lesion's border irregular, `b` its inside uneven.
Everything else is nuisance, drawn from the picture's own random stream. Lengths are in half edges and random fields
have a fixed resolution, so that one stream shows the same picture at every size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from prep.pool import Workers, with_progress
from prep.synth.ruler import INK, ruler

Floats = NDArray[np.float32]

CHUNK = 64  # pictures of one task of a worker
QUALITY = 90
COPY_QUALITY = 75
FIELD = 48  # edge of a random field before it is stretched to the picture, in cells
LIGHT_SKIN = np.array([0.94, 0.77, 0.70], dtype=np.float32)
DEEP_SKIN = np.array([0.72, 0.51, 0.41], dtype=np.float32)
MELANIN = np.array([0.72, 1.22, 1.55], dtype=np.float32)  # absorption by red, green and blue light
# Waves round the border and their shares, of squares that sum to 1: one wave alone would draw clover leaves.
LOBES = {4: 0.80, 3: 0.40, 5: 0.35, 7: 0.28}
HAIR = np.array([0.16, 0.11, 0.09], dtype=np.float32)


@dataclass(frozen=True, kw_only=True)
class Picture:
    """What one file shows."""

    path: Path
    stream: int  # number of the random stream of all nuisance; duplicates share it
    a: float  # irregularity of the border, in standard deviations
    b: float  # unevenness of the inside, in standard deviations
    copied: bool = False  # the second of a duplicate pair: a little brighter and compressed harder
    ruler: bool = False  # whether a ruler lies beside the lesion


def draw_all(pictures: Sequence[Picture], *, seed: int, size: int, workers: int) -> None:
    """Draw and write `pictures` by `workers` processes (0: one per core); the files do not depend on how many."""
    chunks = [pictures[start : start + CHUNK] for start in range(0, len(pictures), CHUNK)]
    write = partial(write_pictures, seed=seed, size=size)
    with Workers(workers) as pool:
        for _ in with_progress(pool.in_order(write, chunks), "drawing", len(pictures), lambda count: count):
            pass


def write_pictures(pictures: Sequence[Picture], seed: int, size: int) -> int:
    """Draw and write `pictures` (edge `size`, in pixels); return how many."""
    for picture in pictures:
        quality = COPY_QUALITY if picture.copied else QUALITY
        jpeg = simplejpeg.encode_jpeg(draw(picture, seed, size), quality=quality, colorspace="RGB")
        picture.path.write_bytes(jpeg)
    return len(pictures)


def draw(picture: Picture, seed: int, size: int) -> NDArray[np.uint8]:
    """The pixels of `picture`: uint8 RGB (size, size, 3), the same for the same seed and stream."""
    rng = np.random.default_rng([seed, picture.stream])
    skin = _skin(rng, size)
    mask, depth = _outline(rng, size, picture.a)
    image = skin * np.exp(-_pigment(rng, size, picture.b, mask, depth)[..., None] * MELANIN)
    image *= _light(rng, size)
    if rng.random() < 0.25:
        cover = _hairs(rng, size)[..., None]
        image += cover * (HAIR - image)
    if picture.ruler:  # from a stream of its own: the rest of the picture is the same without it
        marks = ruler(np.random.default_rng([seed, picture.stream, 1]), size)[..., None]
        image += marks * (INK - image)
    image += 0.012 * rng.standard_normal((size, size, 1), dtype=np.float32)
    if picture.copied:
        image *= 1.03
    pixels: NDArray[np.uint8] = np.clip(255 * image + 0.5, 0, 255).astype(np.uint8)
    return pixels


@lru_cache(maxsize=4)
def _grid(size: int) -> tuple[Floats, Floats]:
    """x and y of the pixel centres, each float32 (size, size) from -1 to 1."""
    axis = ((np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1).astype(np.float32)
    return np.broadcast_to(axis, (size, size)), np.broadcast_to(axis[:, None], (size, size))


def _field(rng: np.random.Generator, size: int, grain: float) -> Floats:
    """Smooth isotropic noise, float32 (size, size), mean 0 and variance about 1; `grain` in cells of FIELD."""
    cells = cv2.GaussianBlur(rng.standard_normal((FIELD, FIELD), dtype=np.float32), (0, 0), grain)
    # Blurring white noise leaves a standard deviation of 1 / (2 sqrt(pi) grain).
    stretched = cv2.resize(cells, (size, size), interpolation=cv2.INTER_CUBIC).astype(np.float32)
    return stretched * np.float32(2 * np.sqrt(np.pi) * grain)


def _skin(rng: np.random.Generator, size: int) -> Floats:
    """Skin without a lesion: reflectance 0 to 1, float32 (size, size, 3)."""
    tone: Floats = LIGHT_SKIN + np.float32(0.6 * rng.random() ** 1.5) * (DEEP_SKIN - LIGHT_SKIN)
    tone += rng.uniform(-0.02, 0.02, 3).astype(np.float32)
    blotches: Floats = 0.016 * _field(rng, size, 4.0) + 0.012 * _field(rng, size, 1.0)
    flush = np.array([0.4, 1.0, 1.0], dtype=np.float32)  # blood darkens green and blue, hardly red
    return tone * (1 + blotches[..., None] * flush)


def _outline(rng: np.random.Generator, size: int, a: float) -> tuple[Floats, Floats]:
    """Where the lesion is: its soft mask (0 to 1) and the depth below its border in radii, (size, size) each."""
    x, y = _grid(size)
    left, top = rng.uniform(-0.06, 0.06, 2)
    turn, stretch = rng.uniform(0, np.pi), rng.uniform(1.0, 1.15)
    cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    along = (cos * (x - np.float32(left)) + sin * (y - np.float32(top))) / np.float32(np.sqrt(stretch))
    across = (cos * (y - np.float32(top)) - sin * (x - np.float32(left))) * np.float32(np.sqrt(stretch))
    angle = np.arctan2(across, along)
    swing = 0.44 * _logistic(1.5 * a) * rng.uniform(0.9, 1.1)
    wave: Floats = np.zeros_like(angle)
    for lobes, share in LOBES.items():
        wave += np.float32(share) * np.sin(lobes * angle + np.float32(rng.uniform(0, 2 * np.pi)))
    radius = np.float32(rng.uniform(0.54, 0.60)) * (1 + np.float32(swing) * wave)
    inside = radius - np.hypot(along, across)
    softness = np.float32(rng.uniform(0.015, 0.03))
    mask: Floats = 1 / (1 + np.exp(np.clip(-inside / softness, -30, 30)))
    return mask, np.clip(inside / radius, 0, 1)


def _pigment(rng: np.random.Generator, size: int, b: float, mask: Floats, depth: Floats) -> Floats:
    """Melanin per pixel, float32 (size, size), 0 on bare skin; its spread within the lesion follows `b`."""
    pattern: Floats = _field(rng, size, 2.2) + 0.3 * _field(rng, size, 1.2)
    # Measured within this lesion, so that a small lesion shows b as well as a large one.
    weight = mask / mask.sum()
    pattern -= (weight * pattern).sum()
    pattern /= np.sqrt((weight * pattern * pattern).sum())
    contrast = np.float32(0.02 + 1.0 * _logistic(2.0 * b))
    amount: Floats = np.float32(rng.uniform(0.65, 0.75)) * (0.9 + 0.2 * depth) * np.exp(contrast * pattern)
    return mask * amount


def _light(rng: np.random.Generator, size: int) -> Floats:
    """Gain of lamp, lens and camera, float32 (size, size, 3): gradient, vignette, white balance, dark frame."""
    x, y = _grid(size)
    direction, slope = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.07)
    gain = 1 + np.float32(slope * np.cos(direction)) * x + np.float32(slope * np.sin(direction)) * y
    square = x * x + y * y
    gain *= 1 - np.float32(rng.uniform(0.04, 0.17)) * square
    if rng.random() < 0.12:  # the round rim of the dermoscope, in the corners
        rim = np.float32(rng.uniform(1.12, 1.3))
        gain /= 1 + np.exp((np.sqrt(square) - rim) * np.float32(40))
    balance = rng.uniform(0.96, 1.04) * rng.uniform(0.985, 1.015, 3)
    return gain[..., None] * balance.astype(np.float32)


def _hairs(rng: np.random.Generator, size: int) -> Floats:
    """How far hairs cover each pixel, float32 (size, size) from 0 to 1: a few arcs that run roughly one way."""
    canvas = np.zeros((size, size), dtype=np.uint8)
    way = rng.uniform(0, np.pi)
    steps = np.linspace(-1, 1, 17)
    for _ in range(int(rng.integers(2, 9))):
        heading = way + rng.normal(0, 0.35)
        centre, reach, bend = rng.uniform(-0.9, 0.9, 2), rng.uniform(0.5, 1.3), rng.normal(0, 0.2)
        ahead = np.array([np.cos(heading), np.sin(heading)])
        points = centre + np.outer(reach * steps, ahead) + np.outer(bend * steps**2, ahead[::-1] * [-1, 1])
        pixels = np.round((points + 1) * (size / 2) * 16).astype(np.int32)
        width = max(1, round(size / 128 * rng.uniform(0.8, 1.6)))
        cv2.polylines(canvas, [pixels], False, int(rng.integers(110, 210)), width, cv2.LINE_AA, 4)
    return canvas.astype(np.float32) / np.float32(255)


def _logistic(value: float) -> float:
    return float(1 / (1 + np.exp(-value)))
