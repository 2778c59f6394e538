"""The renderer of pixels that are kept on the GPU: gather, warp, recolour and cut out as one function of tensors.

The function is plain torch, and inductor makes one kernel of it: each byte of a batch is computed from the cache and
written once. The CPU runs the same function, which is how it is tested.
"""

import logging
import time
from collections.abc import Callable, Iterable
from itertools import islice

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from configs.schema import Border
from loaders.augment import AugmentParams, pixel_matrices
from loaders.cache import PixelCache, gathered
from loaders.renderer import Rendered
from loaders.request import Request
from loaders.source import Source

_log = logging.getLogger(__name__)

_UPLOADED_TOGETHER = 2048  # samples whose parameters are copied to the GPU at once, instead of step by step
_COLOUR, _BOXES = 6, 18  # where they begin in a row of packed parameters
_MOST_SHAPES = 64  # that a process may compile for, say of a grid: each fold has a cache of its own size
_NO_LIMIT = 1_000_000


def packed(params: AugmentParams, size: int, edge: int | None = None) -> npt.NDArray[np.float32]:
    """One row per sample, float32 [B, 18 + 4 * holes], for images of `size` x `size` pixels, which are kept in `edge` x
    `edge` (None: as many).

    The affine matrix [2, 3] with pixel centres at integers and the origin in the first one, the colour matrix [3, 4],
    the boxes [holes, 4].
    """
    affine = pixel_matrices(params.affine.astype(np.float64), size=size, edge=edge or size, first=0.0)
    rows = [part.reshape(len(affine), -1) for part in (affine, params.colour, params.boxes)]
    return np.concatenate(rows, axis=1, dtype=np.float32, casting="unsafe")


def augmented(pixels: Tensor, places: Tensor, params: Tensor, border: Border, size: int | None = None) -> Tensor:
    """Augmented copies of the images pixels[places], uint8 [B, size, size, 3]; size None means their own.

    pixels: uint8 [N, edge, edge, 3]; places: int64 [B]; params: float32 as `packed` makes them. As on the host, a pixel
    is rounded after the warp, which resizes, and after the colours.
    """
    edge = pixels.shape[1]
    size = size or edge
    shape = (size, size, 3)  # of every intermediate value: inductor fuses only loops of the same shape
    axis, channel = torch.arange(size, device=pixels.device), torch.arange(3, device=pixels.device)
    y, x = axis[:, None, None].expand(shape), axis[:, None].expand(shape)
    image, values = places[:, None, None, None], params[:, :, None, None, None]
    rows = _between(values[:, 3] * x + values[:, 4] * y + values[:, 5], edge, border)
    columns = _between(values[:, 0] * x + values[:, 1] * y + values[:, 2], edge, border)
    colour = params[:, _COLOUR:_BOXES].view(-1, 1, 1, 3, 4)
    mixed = colour[..., 3]
    for step in range(3):  # each channel takes from itself and the two after it, so all loops are over channels
        other = (channel + step) % 3
        taps = [high * wide * pixels[image, row, column, other] for row, high in rows for column, wide in columns]
        mixed = mixed + colour[..., channel, other] * (taps[0] + taps[1] + taps[2] + taps[3]).round()
    shown = mixed.round().clamp(0, 255)
    for box in range(_BOXES, params.shape[1], 4):
        left, top, right, bottom = (values[:, box + side] for side in range(4))
        shown = shown.masked_fill((x >= left) & (x < right) & (y >= top) & (y < bottom), 0)
    return shown.to(torch.uint8)


def compiled() -> Callable[..., Tensor]:
    """`augmented` as one kernel, compiled when it is first called, and again for other shapes or another border."""
    from torch._inductor import config as inductor  # slow to import

    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _MOST_SHAPES)
    # By default inductor stores a part of an expression as long as this one, 12 bytes per pixel.
    limits = ("realize_reads_threshold", "realize_acc_reads_threshold", "realize_opcount_threshold")
    known = [name for name in limits if hasattr(inductor, name)]  # which depends on the version of torch
    options: dict[str, str | int | bool | Callable[..., object]] = dict.fromkeys(known, _NO_LIMIT)
    return torch.compile(augmented, fullgraph=True, dynamic=False, options=options)


def _between(position: Tensor, size: int, border: Border) -> list[tuple[Tensor, Tensor]]:
    """The two pixels on either side of a position along an axis, int64, each with its share, float32."""
    first = position.floor()
    share, lower = position - first, first.long()
    found = []
    for pixel, weight in ((lower, 1 - share), (lower + 1, share)):
        if border == "reflect":
            period = max(1, 2 * (size - 1))
            turned = pixel % period
            inside = torch.minimum(turned, period - turned)
        else:
            inside = pixel.clamp(0, size - 1)
        found.append((inside, weight * (inside == pixel) if border == "constant" else weight))
    return found


class CacheRenderer:
    """Renders from the source's cache, on the cache's device and the consumer's own stream.

    Nothing waits for the GPU, so the host is ahead of it. If compilation fails, a warning says why, and the same
    function runs uncompiled.
    """

    def __init__(self, source: Source, cache: PixelCache, batch_size: int, *, compiling: bool) -> None:
        self._source = source
        self._cache = cache
        self._together = max(1, _UPLOADED_TOGETHER // batch_size)
        self._augment = compiled() if compiling else augmented

    def render(self, requests: Iterable[Request]) -> Rendered:
        """See loaders.renderer.Renderer."""
        remaining, clock = iter(requests), self._source.clock
        while asked := list(islice(remaining, self._together)):
            begin = time.perf_counter()
            group = [request.with_stand_ins(self._source.stand_ins(request)) for request in asked]
            samples = [len(request.index) for request in group]
            index = np.concatenate([request.index for request in group])
            places = torch.split(self._uploaded(self._cache.places(index)), samples)
            drawn = [
                packed(request.params, request.size, self._source.edge(request.size))
                for request in group
                if request.params is not None
            ]
            params = torch.split(self._uploaded(np.concatenate(drawn)), samples) if drawn else [None] * len(group)
            clock.add(copy=time.perf_counter() - begin)
            for request, at, values in zip(group, places, params, strict=True):
                images = self._images(at, values, request)
                clock.batch(len(request.index), 1)
                yield request, images

    def close(self) -> None:
        """Nothing to close."""

    def _uploaded(self, array: npt.NDArray[np.generic]) -> Tensor:
        tensor, device = torch.from_numpy(array), self._cache.pixels.device
        return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor

    def _images(self, places: Tensor, params: Tensor | None, request: Request) -> Tensor:
        if params is None:
            return gathered(self._cache.pixels, places)
        given = self._cache.at[self._source.edge(request.size)], places, params, request.border, request.size
        if self._augment is not augmented:
            try:
                return self._augment(*given)
            # Compilation can fail in any way: no compiler, an unsupported operator, a bug in the compiler.
            except Exception as error:
                self._augment = augmented
                reason = (str(error).strip().splitlines() or [""])[0][:200]
                why = f"because torch.compile failed: {type(error).__name__}: {reason}"
                _log.warning("loader.cache=gpu: augmenting without compilation, which is slower, %s", why)
        return augmented(*given)
