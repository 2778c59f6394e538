"""One image at a time on the CPU: decoded, flipped, warped, recoloured and cut out in its place in a batch.

What makes it fast, measured at 256 px: a left-right flip of a row decoded as BGR is a reversal of its bytes; four
channels transpose and warp in less than half the time of three; everything else happens in place, in one core's cache.
"""

import math
import threading
from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg
import torch

from configs.schema import Border
from loaders.augment import AugmentParams, pixel_matrices
from loaders.symmetry import LEFT_RIGHT, TRANSPOSE, UPSIDE_DOWN

Pixels = npt.NDArray[np.uint8]

WARP = -1  # in AugmentParams.symmetry: no flip or quarter turn, use the matrix
_BORDERS = {"reflect": cv2.BORDER_REFLECT_101, "edge": cv2.BORDER_REPLICATE, "constant": cv2.BORDER_CONSTANT}
_TO_LAYOUT = {"BGR": cv2.COLOR_RGB2BGR, "RGBX": cv2.COLOR_RGB2RGBA}


class Changes(NamedTuple):
    """What to do with one square image.

    symmetry: as in AugmentParams, -1 to use `matrix` (float64 [2, 3], output to input, pixel centres at integers);
    colour: float32 [3, 4] or None; boxes: (left, top, right, bottom), black; border: what a warp shows outside the
    image; edge: that of the decoded image in pixels where a warp resizes it, 0 where it has the output's size.
    """

    symmetry: int
    matrix: npt.NDArray[np.float64]
    colour: npt.NDArray[np.float32] | None
    boxes: list[list[int]]
    border: Border = "constant"
    edge: int = 0


UNCHANGED = Changes(0, np.eye(2, 3), None, [])


def decoded_edge(size: int, full: int) -> int:
    """The edge to which a JPEG of `full` x `full` pixels is decoded for an image of `size` x `size`: its own, or the
    smallest of a half, a quarter and an eighth that is not below `size`.

    So a warp shrinks what is decoded by less than 2, its own scale aside, and leaves out no pixel between its samples.
    libjpeg-turbo offers every eighth, but has vector code for these only: a half takes about 0.6 of the time of the
    whole, five eighths 0.9, six eighths 1.2.
    """
    return min(edge for part in (1, 2, 4, 8) if (edge := -(-full // part)) >= size)


def changes(
    params: AugmentParams | None, places: range, size: int, border: Border = "constant", edge: int = 0
) -> Iterator[Changes]:
    """The changes of the samples at `places` for images of `size` x `size` pixels; UNCHANGED if `params` is None.

    edge: that of the decoded images, 0 where it is the same.
    """
    if params is None:
        yield from (UNCHANGED for _ in places)
        return
    part = params.part(slice(places.start, places.stop))
    resized = edge not in (0, size)
    matrices = pixel_matrices(part.affine.astype(np.float64), size=size, edge=edge or size, first=0.0)
    symmetries = np.where(resized, WARP, part.symmetry)
    recolour: list[bool] = part.recolour.tolist()
    cut = np.flatnonzero(part.boxes.any(axis=(1, 2))).tolist()
    for place, symmetry in enumerate(symmetries.tolist()):
        boxes = [box for box in part.boxes[place].tolist() if box[2]] if place in cut else []
        colour = part.colour[place] if recolour[place] else None
        yield Changes(symmetry, matrices[place], colour, boxes, border, edge * resized)


def decode(jpeg: bytes | memoryview, change: Changes, out: Pixels, full: int | None = None) -> None:
    """Decode a JPEG of `full` x `full` pixels (None: out's size), out being uint8 [H, W, 3], into the buffer that
    `finish` reads; at a reduced scale, if that is what `decoded_edge` says.

    Raises ValueError if the JPEG is corrupt or of another size.
    """
    layout, place = _decode_target(change, out)
    size, least = full or len(place), 0
    if size != len(place):
        require_size(jpeg, size)  # a JPEG of another size may have the same at another scale
        least = len(place)
    try:
        decoded = simplejpeg.decode_jpeg(jpeg, layout, min_height=least, min_width=least, buffer=place)
    except ValueError:
        require_size(jpeg, size)
        raise
    if decoded.shape != place.shape:  # a smaller picture leaves the rest of the buffer as it was
        require_size(jpeg, size)


def require_size(jpeg: bytes | memoryview, size: int) -> None:
    """Raise ValueError if the header says that the JPEG is not one of `size` x `size` pixels, in 5 us."""
    height, width, *_ = simplejpeg.decode_jpeg_header(jpeg)
    if (height, width) != (size, size):
        raise ValueError(f"it has {width} x {height} pixels, wanted {size} x {size}")


def load(pixels: Pixels, change: Changes, out: Pixels) -> None:
    """The same for an image that is already decoded, uint8 RGB [edge, edge, 3]."""
    layout, place = _decode_target(change, out)
    if layout == "RGB":
        np.copyto(place, pixels)
    else:
        cv2.cvtColor(pixels, _TO_LAYOUT[layout], dst=place)


def finish(change: Changes, out: Pixels) -> None:
    """Turn what `decode` or `load` wrote into the changed image, RGB in `out`."""
    code, last = change.symmetry, _target(change, out)
    if code == WARP or code & TRANSPOSE:
        _turn(change, last)
    elif code & LEFT_RIGHT:  # BGR, read backwards, is RGB
        rows = last.reshape(len(out), -1)
        cv2.flip(rows, -1 if code & UPSIDE_DOWN else 1, dst=rows)
    elif code:
        cv2.flip(last, 0, dst=last)
    if change.colour is not None:
        cv2.transform(last, change.colour, dst=out)
    for left, top, right, bottom in change.boxes:
        out[top:bottom, left:right] = 0


def _decode_target(change: Changes, out: Pixels) -> tuple[str, Pixels]:
    """The layout to decode to, and the buffer."""
    code = change.symmetry
    if code == WARP or code & TRANSPOSE:
        return "RGBX", _scratch(change, out).rgbx
    return "BGR" if code & LEFT_RIGHT else "RGB", _target(change, out)


def _target(change: Changes, out: Pixels) -> Pixels:
    """The buffer of the image before its colours change, which OpenCV cannot do in place without a copy."""
    return out if change.colour is None else _scratch(change, out).rgb


def _turn(change: Changes, last: Pixels) -> None:
    scratch = _scratch(change, last)
    if change.symmetry == WARP:
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        shape = (len(last), len(last))
        border = _BORDERS[change.border]
        cv2.warpAffine(scratch.rgbx, change.matrix, shape, dst=scratch.turned, flags=flags, borderMode=border)
    else:
        flips = change.symmetry & ~TRANSPOSE
        if flips:
            cv2.flip(scratch.rgbx, {LEFT_RIGHT: 1, UPSIDE_DOWN: 0}.get(flips, -1), dst=scratch.rgbx)
        cv2.transpose(scratch.rgbx, dst=scratch.turned)
    cv2.cvtColor(scratch.turned, cv2.COLOR_RGBA2RGB, dst=last)


class _Scratch:
    """One thread's intermediate images, small enough to stay in its core's cache: one of `edge`, as it was decoded, the
    others of `size`."""

    def __init__(self, edge: int, size: int) -> None:
        self.edge, self.size = edge, size
        self.rgbx, self.turned = (empty_images((each, each, 4)).numpy() for each in (edge, size))
        self.rgb = empty_images((size, size, 3)).numpy()


def empty_images(shape: tuple[int, ...], *, pinned: bool = False) -> torch.Tensor:
    """A uint8 buffer for images that are still to be processed, [..., W, C], in pinned memory if asked.

    It starts 16 bytes off a multiple of 32. Rows that start on one are written by libjpeg-turbo to memory, bypassing
    the cache, and the next operation must fetch them again: a warp then takes 2.4 times as long.
    """
    count = math.prod(shape)
    # numpy asks the kernel for huge pages, torch does not.
    block = torch.empty(count + 64, dtype=torch.uint8, pin_memory=True) if pinned else np.empty(count + 64, np.uint8)
    flat = torch.as_tensor(block)
    start = 16 + -flat.data_ptr() % 32
    return flat[start : start + count].view(shape)


_threads = threading.local()


def _scratch(change: Changes, out: Pixels) -> _Scratch:
    edge, size = change.edge or len(out), len(out)
    scratch: _Scratch | None = getattr(_threads, "scratch", None)
    if scratch is None or (scratch.edge, scratch.size) != (edge, size):
        scratch = _threads.scratch = _Scratch(edge, size)
    return scratch
