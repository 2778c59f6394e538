"""The connected parts of a mask, and their shapes."""

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.floating[Any]]


class Parts:
    """The connected parts of a mask [H, W], n of them; lengths in pixels."""

    def __init__(self, mask: Mask) -> None:
        _, self.label, stats, centre = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
        self.area = stats[1:, cv2.CC_STAT_AREA].astype(np.float64)
        self.box = stats[1:, :4]  # left, top, width, height
        self.extent = np.hypot(self.box[:, 2], self.box[:, 3])
        self.centre: Floats = np.asarray(centre[1:], dtype=np.float64)  # x and y [n, 2]

    def axes(self) -> tuple[Floats, Floats, Floats]:
        """Length and width of each part [n], if it were a bar, and the angle of its longer axis, in radians."""
        y, x = np.nonzero(self.label)
        owner = self.label[y, x] - 1
        dx, dy = x - self.centre[owner, 0], y - self.centre[owner, 1]
        xx, yy, xy = (np.bincount(owner, each, len(self.area)) / self.area for each in (dx * dx, dy * dy, dx * dy))
        mean, spread = (xx + yy) / 2, np.hypot((xx - yy) / 2, xy)
        # A bar of length l has the variance l^2 / 12.
        length, width = (np.sqrt(12 * np.maximum(mean + side * spread, 0)) + 1 for side in (1, -1))
        return length, width, np.arctan2(2 * xy, xx - yy) / 2

    def mean(self, values: Floats) -> Floats:
        """Mean of values [H, W] over each part [n]."""
        total = np.bincount(self.label.ravel(), values.ravel(), len(self.area) + 1)
        means: Floats = total[1:] / self.area
        return means
