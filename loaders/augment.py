"""The augmentation of a sample as a function of (seed, epoch, index): parameters, not pixels.

All geometry becomes one affine matrix, all colour one matrix over the channels, cutout a set of boxes; on the CPU every
renderer makes the same image from them, and on a GPU, DALI or loaders/render_cache.py almost the same one.
"""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from configs.schema import AugmentConfig
from loaders.counter import random_words, uniform
from loaders.order import Indices
from loaders.symmetry import Codes, symmetry_codes, symmetry_matrices

Floats = npt.NDArray[np.float64]
Real = TypeVar("Real", np.float32, np.float64)

_STREAM, _HOLES = 2, 3
# Each name keeps its column of the draws for good, so that adding one never changes the others.
_DRAWS = (
    *("hflip", "vflip", "turn", "turn_by", "ssr", "shift_x", "shift_y", "scale", "rotate"),
    *("hsv", "hue", "saturation", "value", "bc", "brightness", "contrast"),
    *("dropout", "holes", "meta_dropout", "spare"),
)
_BLOCKS = len(_DRAWS) // 4
# NTSC luma and chroma (source: ITU-R BT.470): hue rotates and saturation scales the chroma plane, luma is unchanged.
_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
_RGB = np.linalg.inv(_YIQ)
# What the luma, the chroma and the chroma rotated by 90 degrees contribute to RGB, each [3, 3].
_LUMA = _RGB[:, :1] @ _YIQ[:1]
_CHROMA = _RGB[:, 1:] @ _YIQ[1:]
_TURNED = _RGB[:, 1:] @ np.array([[0.0, -1.0], [1.0, 0.0]]) @ _YIQ[1:]


@dataclass(frozen=True, kw_only=True)
class AugmentParams:
    """What to do with each of B images of `size` x `size` pixels.

    affine: float32 [B, 2, 3], from an output point to the input point to show there; both in pixels from the
        image's centre, x to the right and y down. What lies outside is up to AugmentConfig.border.
    symmetry: int8 [B], the code of loaders/symmetry.py where the affine is only flips and quarter turns, so that a
        renderer can copy pixels instead of warping; -1 elsewhere.
    colour: float32 [B, 3, 4], from (r, g, b, 1) to (r, g, b) on the scale 0..255.
    recolour: bool [B], False where the colour matrix is the identity.
    boxes: int32 [B, holes, 4], black boxes (left, top, right, bottom) in pixels, right and bottom exclusive; empty
        ones are all zero.
    hide_meta: bool [B], whether to mark sex, age and site as missing.
    """

    affine: npt.NDArray[np.float32]
    symmetry: npt.NDArray[np.int8]
    colour: npt.NDArray[np.float32]
    recolour: npt.NDArray[np.bool_]
    boxes: npt.NDArray[np.int32]
    hide_meta: npt.NDArray[np.bool_]

    def part(self, places: slice) -> "AugmentParams":
        """The parameters of the samples at `places`."""
        return AugmentParams(**{name: values[places] for name, values in vars(self).items()})


def draw_params(config: AugmentConfig, *, seed: int, epoch: int, index: Indices, size: int) -> AugmentParams:
    """Parameters for the samples `index` (int64 [B]) in `epoch`; the same arguments give the same ones anywhere."""
    draws = uniform(random_words(seed, _STREAM, epoch, index, _BLOCKS))
    chosen = {name: draws[:, column] for column, name in enumerate(_DRAWS)}
    codes = _flips_and_turns(config, chosen)
    warp, warped = _shift_scale_rotate(config, chosen, size)
    colour, recolour = _colour(config, chosen)
    return AugmentParams(
        # The image is flipped first, then warped, so an output point is mapped by the warp first, then by the flips.
        affine=(symmetry_matrices(codes) @ warp).astype(np.float32),
        symmetry=np.where(warped, -1, codes).astype(np.int8),
        colour=colour.astype(np.float32),
        recolour=recolour,
        boxes=_coarse_dropout(config, chosen, seed=seed, epoch=epoch, index=index, size=size),
        hide_meta=chosen["meta_dropout"] < config.meta_dropout,
    )


def pixel_matrices(affine: npt.NDArray[Real], *, size: int, edge: int, first: float) -> npt.NDArray[Real]:
    """AugmentParams.affine between pixels, [B, 2, 3]: from those of images of `size` x `size` to those of the stored
    ones, which have `edge` x `edge`; `first` is the first pixel's coordinate, its centre's, along both axes."""
    shown, stored = (length / 2 - 0.5 + first for length in (size, edge))
    matrices = affine * (edge / size)
    matrices[:, :, 2] += stored - matrices[:, :, :2].sum(axis=2) * shown
    return matrices


def _flips_and_turns(config: AugmentConfig, chosen: dict[str, Floats]) -> Codes:
    """The symmetry codes [B] of the flips and quarter turns."""
    left_right = chosen["hflip"] < config.hflip
    upside_down = chosen["vflip"] < config.vflip
    turns = np.where(chosen["turn"] < config.quarter_turn, (chosen["turn_by"] * 4).astype(np.int64), 0)
    return symmetry_codes(left_right, upside_down, turns)


def _shift_scale_rotate(
    config: AugmentConfig, chosen: dict[str, Floats], size: int
) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Output-to-input matrices [B, 2, 3] of ShiftScaleRotate, and where it is drawn, bool [B]."""
    drawn = chosen["ssr"] < config.shift_scale_rotate
    angle = np.deg2rad(np.where(drawn, _between(chosen["rotate"], config.rotate), 0.0))
    scale = 1.0 + np.where(drawn, _between(chosen["scale"], config.scale), 0.0)
    shift = np.stack([_between(chosen["shift_x"], config.shift), _between(chosen["shift_y"], config.shift)], axis=1)
    shift = np.where(drawn[:, None], shift * size, 0.0)
    cos, sin = np.cos(angle) / scale, np.sin(angle) / scale
    inverse = np.stack([np.stack([cos, sin], axis=1), np.stack([-sin, cos], axis=1)], axis=1)
    moved = -np.einsum("bij,bj->bi", inverse, shift)
    return np.concatenate([inverse, moved[:, :, None]], axis=2), drawn


def _colour(config: AugmentConfig, chosen: dict[str, Floats]) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Matrices [B, 3, 4] of hue, saturation, value, then contrast and brightness; and where one is drawn, bool [B]."""
    hsv = chosen["hsv"] < config.hue_saturation_value
    bc = chosen["bc"] < config.brightness_contrast
    hue = np.deg2rad(np.where(hsv, _between(chosen["hue"], config.hue), 0.0))
    chroma = 1.0 + np.where(hsv, _between(chosen["saturation"], config.saturation), 0.0)
    value = np.where(hsv, _between(chosen["value"], config.value), 0.0) * 255.0
    contrast = 1.0 + np.where(bc, _between(chosen["contrast"], config.contrast), 0.0)
    brightness = np.where(bc, _between(chosen["brightness"], config.brightness), 0.0) * 255.0
    along, across = (contrast * chroma * wave(hue) for wave in (np.cos, np.sin))
    parts = ((contrast, _LUMA), (along, _CHROMA), (across, _TURNED))
    matrix = sum(weight[:, None, None] * part for weight, part in parts)
    offset = contrast * value + brightness
    return np.concatenate([matrix, np.tile(offset[:, None, None], (1, 3, 1))], axis=2), hsv | bc


def _coarse_dropout(
    config: AugmentConfig, chosen: dict[str, Floats], *, seed: int, epoch: int, index: Indices, size: int
) -> npt.NDArray[np.int32]:
    """Boxes [B, holes, 4] of CoarseDropout: 1 to `holes` of them, centres anywhere, edges up to `hole_size`."""
    boxes = np.zeros((len(index), config.holes, 4), dtype=np.int32)
    drawn = np.flatnonzero(chosen["dropout"] < config.coarse_dropout)
    draws = uniform(random_words(seed, _HOLES, epoch, index[drawn], config.holes)).reshape(-1, config.holes, 4)
    half = (draws[..., 2:] + 1.0) * (0.25 * config.hole_size * size)
    centre = draws[..., :2] * size
    corners = np.concatenate([centre - half, centre + half], axis=2)
    corners = np.clip(np.rint(corners, out=corners), 0, size, out=corners).astype(np.int32)
    count = 1 + (chosen["holes"][drawn] * config.holes).astype(np.int64)
    corners[np.arange(config.holes) >= count[:, None]] = 0
    corners[(corners[..., :2] >= corners[..., 2:]).any(axis=2)] = 0
    boxes[drawn] = corners
    return boxes


def _between(draw: Floats, limit: float) -> Floats:
    """[0, 1) -> [-limit, limit)."""
    return (2.0 * draw - 1.0) * limit
