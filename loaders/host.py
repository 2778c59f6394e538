"""The renderer without DALI: libjpeg-turbo and OpenCV on threads, outside the GIL, into reused buffers."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import islice

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg
import torch

from configs.errors import UserError
from loaders.augment import AugmentParams
from loaders.shards import ShardSet
from loaders.stream import Request

Pixels = npt.NDArray[np.uint8]

_CHUNK = 8  # samples of one task: enough to hide its overhead, few enough to keep all threads busy to the end


class HostRenderer:
    """Decodes and augments local batches of `batch_size` on `threads` threads, `prefetch` batches ahead."""

    def __init__(self, shards: ShardSet, batch_size: int, *, threads: int, prefetch: int, device: torch.device) -> None:
        cv2.setNumThreads(1)  # the samples share the threads; OpenCV's own would only fight over the cores
        self._shards = shards
        self._prefetch = prefetch
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="host-renderer")
        self._ring = Ring(prefetch + 2, (batch_size, shards.size, shards.size, 3), device)

    def render(self, requests: Iterable[Request]) -> Iterator[tuple[Request, torch.Tensor]]:
        """Each request with its images on the device, uint8 [b, size, size, 3]."""
        remaining = iter(requests)
        pending = deque(self._submit(request) for request in islice(remaining, self._prefetch))
        try:
            while pending:
                request, slot, parts = pending.popleft()
                for part in parts:
                    part.result()
                pending.extend(self._submit(following) for following in islice(remaining, 1))
                yield request, slot.on_device()
        finally:  # an abandoned run must not go on writing into buffers that the next one fills
            abandoned = [part for _, _, parts in pending for part in parts]
            for part in abandoned:
                part.cancel()
            wait(abandoned)

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(cancel_futures=True)

    def _submit(self, request: Request) -> "tuple[Request, Slot, list[Future[None]]]":
        slot = self._ring.take()
        starts = range(0, len(request.index), _CHUNK)
        return request, slot, [self._pool.submit(self._draw, request, slot, start) for start in starts]

    def _draw(self, request: Request, slot: "Slot", start: int) -> None:
        slot.wait_until_read()
        for place in range(start, min(start + _CHUNK, len(request.index))):
            index = int(request.index[place])
            try:
                draw_sample(self._shards.jpeg(index), request.params, place, slot.pixels[place])
            except (ValueError, cv2.error) as error:
                if isinstance(error, UserError):
                    raise
                raise UserError(
                    f"{self._shards.folder}: sample {self._shards.key[index]} cannot be decoded: {error}; "
                    "make the shard set anew"
                ) from error


def draw_sample(jpeg: bytes | memoryview, params: AugmentParams | None, place: int, out: Pixels) -> None:
    """Decode a square JPEG, do to it what `params` says of sample `place`, and write it to `out` [H, W, 3]."""
    if params is None:
        simplejpeg.decode_jpeg(jpeg, buffer=out)
        return
    if params.dihedral[place] < 0:
        # Four channels go through OpenCV's warp in less than half the time of three.
        decoded = simplejpeg.decode_jpeg(jpeg, colorspace="RGBX")
        pixels = warp(decoded, params.affine[place])
    else:
        pixels = flip_and_turn(simplejpeg.decode_jpeg(jpeg), int(params.dihedral[place]))
    finish_sample(pixels, params, place, out)


def augment_sample(pixels: Pixels, params: AugmentParams, place: int, out: Pixels) -> None:
    """The same for a decoded picture, RGB [H, W, 3]."""
    if params.dihedral[place] < 0:
        pixels = warp(np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2RGBA), dtype=np.uint8), params.affine[place])
    else:
        pixels = flip_and_turn(pixels, int(params.dihedral[place]))
    finish_sample(pixels, params, place, out)


def warp(pixels: Pixels, affine: npt.NDArray[np.float32]) -> Pixels:
    """Warp RGBX [H, W, 4] by a centred output-to-input matrix [2, 3], black outside, and drop the fourth channel."""
    size = len(pixels)
    centre = (size - 1) / 2  # OpenCV counts pixel centres at whole numbers
    matrix = affine.astype(np.float64)
    matrix[:, 2] += centre - matrix[:, :2].sum(axis=1) * centre
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    warped = cv2.warpAffine(pixels, matrix, (size, size), flags=flags, borderMode=cv2.BORDER_CONSTANT)
    return np.asarray(cv2.cvtColor(warped, cv2.COLOR_RGBA2RGB), dtype=np.uint8)


def flip_and_turn(pixels: Pixels, dihedral: int) -> Pixels:
    """One of the eight flips and turns of a square, by its code in AugmentParams.dihedral."""
    flips = dihedral & 3
    if flips:
        pixels = np.asarray(cv2.flip(pixels, {1: 1, 2: 0, 3: -1}[flips]), dtype=np.uint8)
    return np.asarray(cv2.transpose(pixels), dtype=np.uint8) if dihedral & 4 else pixels


def finish_sample(pixels: Pixels, params: AugmentParams, place: int, out: Pixels) -> None:
    """Colour, then boxes, into `out`."""
    if params.recolour[place]:
        cv2.transform(pixels, params.colour[place], dst=out)
    else:
        np.copyto(out, pixels)
    for left, top, right, bottom in params.boxes[place]:
        out[top:bottom, left:right] = 0


class Slot:
    """One buffer of the ring; on a GPU machine it is pinned, and knows when the copy out of it is over."""

    def __init__(self, shape: tuple[int, ...], device: torch.device) -> None:
        self._device = device
        self._image = torch.empty(shape, dtype=torch.uint8, pin_memory=device.type == "cuda")
        self.pixels: Pixels = self._image.numpy()
        self._read: torch.cuda.Event | None = None

    def on_device(self) -> torch.Tensor:
        """The buffer itself on a CPU; on a GPU a copy, under way behind the work that is queued there already."""
        if self._device.type != "cuda":
            return self._image
        copy = self._image.to(self._device, non_blocking=True)
        self._read = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._read.record()
        return copy

    def wait_until_read(self) -> None:
        """Return once the slot may be written again."""
        if self._read is not None:
            self._read.synchronize()


class Ring:
    """Buffers taken in turn: with two more than are being filled, the consumer's last two are never overwritten."""

    def __init__(self, slots: int, shape: tuple[int, ...], device: torch.device) -> None:
        self._slots = [Slot(shape, device) for _ in range(slots)]
        self._taken = 0

    def take(self) -> Slot:
        """The slot whose turn it is."""
        slot = self._slots[self._taken % len(self._slots)]
        self._taken += 1
        return slot
