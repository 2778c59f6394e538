"""A planted shortcut: the scale of a ruler at one side of a picture, a line with teeth of one length.

The stress test of the report draws another ruler (report/artefacts/drawing.py: no line, closer teeth, each fifth one
longer), so that it must notice more than the very drawing that was planted.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

INK = np.array([0.10, 0.10, 0.12], dtype=np.float32)


def ruler(rng: np.random.Generator, size: int) -> NDArray[np.float32]:
    """How far the scale covers each pixel, float32 (size, size) from 0 to 1."""
    canvas = np.zeros((size, size), dtype=np.uint8)
    edge, gap, length = (size * rng.uniform(*span) for span in ((0.03, 0.08), (0.08, 0.11), (0.07, 0.10)))
    starts = np.arange(0.06 * size, 0.95 * size, gap)
    lines = [[(starts[0], edge), (starts[-1], edge)], *([(start, edge), (start, edge + length)] for start in starts)]
    pixels = np.round(np.array(lines) * 16).astype(np.int32)
    cv2.polylines(canvas, list(pixels), False, 230, max(1, round(size / 100)), cv2.LINE_AA, 4)
    return np.rot90(canvas, int(rng.integers(4))).astype(np.float32) / np.float32(255)
