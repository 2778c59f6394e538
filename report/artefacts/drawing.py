"""Artefacts drawn onto a picture: a dark rim, a ruler, ink; and the same strokes in the colour of the skin.

A drawing is a mask, how far it covers each pixel, and a colour. Where it lies is drawn from a random generator. The
same mask in the colour of the skin is the control: it hides as much of the picture, and adds nothing to be read.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from report.artefacts.detectors import Pixels

Cover = npt.NDArray[np.float32]

_SHIFT = 4  # OpenCV draws at sixteenths of a pixel


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """An artefact that can be drawn."""

    name: str
    """What is drawn, as the page says it."""
    detector: str
    """Name of the detector that looks for it."""
    cover: Callable[[int, np.random.Generator], Cover]
    """How far it hides each pixel of a picture of this edge, 0 to 1 [H, H]."""
    colour: tuple[int, int, int]
    """Red, green and blue, 0 to 255."""

    def __call__(self, pixels: Pixels, seed: int) -> Pixels:
        """A copy of the square picture, uint8 RGB [H, H, 3], with the artefact; the same for the same seed."""
        return _painted(pixels, self._cover(pixels, seed), np.array(self.colour))

    def control(self, pixels: Pixels, seed: int) -> Pixels:
        """The same in the colour of the skin: the median colour of the outer half of the picture."""
        axis = np.abs(np.linspace(-1, 1, len(pixels)))
        outer = pixels[np.maximum(axis, axis[:, None]) > 0.7]
        return _painted(pixels, self._cover(pixels, seed), np.median(outer, axis=0))

    def _cover(self, pixels: Pixels, seed: int) -> Cover:
        cover: Cover = self.cover(len(pixels), np.random.default_rng(seed))
        return cover


def dark_corner(edge: int, rng: np.random.Generator) -> Cover:
    """The round rim of a dermoscope that is narrower than the picture: all corners are covered."""
    axis = (np.arange(edge) + 0.5) * (2 / edge) - 1
    left, top = rng.uniform(-0.05, 0.05, 2)
    beyond = np.hypot(axis - left, axis[:, None] - top) - rng.uniform(1.02, 1.14)
    cover: Cover = np.clip(beyond * rng.uniform(15, 40) + 0.5, 0, 1).astype(np.float32)
    return cover


def ruler(edge: int, rng: np.random.Generator) -> Cover:
    """Ticks along one side of the picture, each fifth one longer."""
    gap, start, depth = rng.uniform(0.06, 0.075), rng.uniform(0.03, 0.1), rng.uniform(0.04, 0.1)
    canvas = np.zeros((edge, edge), dtype=np.uint8)
    for number in range(int((0.97 - start) / gap) + 1):
        along, length = start + number * gap, 0.12 if number % 5 == 0 else 0.08
        _stroke(canvas, [(along, depth), (along, depth + length)], width=0.010)
    return np.rot90(canvas, int(rng.integers(4))).astype(np.float32) / np.float32(255)


def ink(edge: int, rng: np.random.Generator) -> Cover:
    """Crosses of a surgeon's pen round the lesion."""
    canvas = np.zeros((edge, edge), dtype=np.uint8)
    first, count = rng.uniform(0, 2 * np.pi), int(rng.integers(4, 7))
    for number in range(count):
        around = first + 2 * np.pi * (number + rng.uniform(-0.2, 0.2)) / count
        centre = 0.5 + rng.uniform(0.36, 0.42) * np.array([np.cos(around), np.sin(around)])
        for turn in rng.uniform(0, np.pi) + np.array([0.0, 1.4, 0.2]):
            reach = rng.uniform(0.03, 0.055) * np.array([np.cos(turn), np.sin(turn)])
            bend = rng.normal(0, 0.006, 2)
            _stroke(canvas, [centre - reach, centre + bend, centre + reach], width=0.014)
    worn = cv2.resize(rng.uniform(0.5, 1, (24, 24)).astype(np.float32), (edge, edge), interpolation=cv2.INTER_CUBIC)
    soft = cv2.GaussianBlur(canvas, (0, 0), edge / 300 + 0.2).astype(np.float32) / 255
    return np.clip(soft * worn, 0, 1).astype(np.float32)


DRAWINGS = (
    Drawing(name="dark corners", detector="dark corners", cover=dark_corner, colour=(12, 10, 12)),
    Drawing(name="ruler marks", detector="ruler marks", cover=ruler, colour=(30, 28, 32)),
    Drawing(name="ink", detector="ink", cover=ink, colour=(70, 45, 150)),
)


def _stroke(canvas: Pixels, points: list[npt.ArrayLike], width: float) -> None:
    """A line through points (x, y), in edges of the canvas."""
    placed = np.round(np.array(points) * len(canvas) * 2**_SHIFT).astype(np.int32)
    cv2.polylines(canvas, [placed], False, 255, max(1, round(width * len(canvas))), cv2.LINE_AA, _SHIFT)


def _painted(pixels: Pixels, cover: Cover, colour: npt.NDArray[np.float64]) -> Pixels:
    mixed = pixels + cover[..., None] * (colour.astype(np.float32) - pixels)
    painted: Pixels = np.clip(mixed + 0.5, 0, 255).astype(np.uint8)
    return painted
