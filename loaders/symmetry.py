"""The eight symmetries of a square image (flips and quarter turns), as a code of three bits.

Bit 0 flips left-right, bit 1 upside down, bit 2 transposes, in this order: augmentation, rendering and test-time views
all use this code.
"""

import numpy as np
import numpy.typing as npt
from torch import Tensor

LEFT_RIGHT, UPSIDE_DOWN, TRANSPOSE = 1, 2, 4

Codes = npt.NDArray[np.int64]


def symmetry_codes(left_right: npt.NDArray[np.bool_], upside_down: npt.NDArray[np.bool_], turns: Codes) -> Codes:
    """Codes [B] of flips followed by `turns` (0 to 3) clockwise quarter turns.

    A quarter turn is one flip, then a transpose; a half turn is both flips. So all eight cases are flips, then at most
    one transpose.
    """
    left_right = left_right ^ (turns >= 2)
    upside_down = upside_down ^ ((turns == 1) | (turns == 2))
    return LEFT_RIGHT * left_right + UPSIDE_DOWN * upside_down + TRANSPOSE * (turns % 2)


def symmetry_matrices(codes: Codes) -> npt.NDArray[np.float64]:
    """The matrices [B, 2, 2] from an output point to the input point shown there, both from the image's centre."""
    flip_x = np.where(codes & LEFT_RIGHT, -1.0, 1.0)
    flip_y = np.where(codes & UPSIDE_DOWN, -1.0, 1.0)
    transposed = (codes & TRANSPOSE) > 0
    matrix = np.zeros((len(codes), 2, 2))
    matrix[:, 0, 0] = np.where(transposed, 0.0, flip_x)
    matrix[:, 0, 1] = np.where(transposed, flip_x, 0.0)
    matrix[:, 1, 0] = np.where(transposed, flip_y, 0.0)
    matrix[:, 1, 1] = np.where(transposed, 0.0, flip_y)
    return matrix


def view_of(image: Tensor, code: int) -> Tensor:
    """The symmetry `code` of a batch of images [B, H, W, C], H = W."""
    flipped = [axis for bit, axis in ((LEFT_RIGHT, 2), (UPSIDE_DOWN, 1)) if code & bit]
    image = image.flip(flipped) if flipped else image
    return image.transpose(1, 2) if code & TRANSPOSE else image
