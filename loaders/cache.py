"""The decode-once cache: the pixels of every sample of a run, decoded once and kept."""

import math
from collections.abc import Iterable

import numpy as np
import torch

from configs.errors import UserError
from configs.machine import available_memory
from loaders.decode import Pixels
from loaders.order import Indices

_USABLE = 0.8  # of the free memory; the rest is for the model, the batches and the shards' page cache


class PixelCache:
    """uint8 [N, size, size, 3] on the CPU or a GPU: the images of the samples `rows` (int64, any order).

    Raises UserError with the sizes if they do not fit; `copies` is the number of ranks that share the memory, each with
    a cache of its own. `edges`: each of these and `size` is an edge at which the images are kept.
    """

    def __init__(
        self, rows: Indices, size: int, device: torch.device, *, copies: int = 1, edges: Iterable[int] = ()
    ) -> None:
        self.rows: Indices = np.unique(rows)
        self.size = size
        shapes = {edge: (len(self.rows), edge, edge, 3) for edge in (size, *edges)}
        self.bytes = sum(map(math.prod, shapes.values()))
        _require_memory(self.bytes, len(self.rows), device, copies)
        self.at = {edge: torch.empty(shape, dtype=torch.uint8, device=device) for edge, shape in shapes.items()}

    @property
    def pixels(self) -> torch.Tensor:
        """The images of the full size, uint8 [N, size, size, 3]."""
        return self.at[self.size]

    def store(self, start: int, images: torch.Tensor) -> None:
        """Keep the images of the samples rows[start:start + len(images)], at one of the edges."""
        self.at[images.shape[1]][start : start + len(images)].copy_(images)

    def image(self, index: int, edge: int | None = None) -> Pixels:
        """The image of one sample, uint8 [edge, edge, 3], of a cache on the CPU; the caller must not change it."""
        pixels: Pixels = self.at[edge or self.size][int(np.searchsorted(self.rows, index))].numpy()
        return pixels

    def images(self, index: Indices, edge: int | None = None, *, pinned: bool = False) -> torch.Tensor:
        """A copy of the images of some samples, uint8 [b, edge, edge, 3], of a cache on the CPU.

        pinned: into pinned memory, which torch keeps and hands out again.
        """
        return gathered(self.at[edge or self.size], torch.from_numpy(self.places(index)), pinned=pinned)

    def places(self, index: Indices) -> Indices:
        """Where the images of the samples `index` are in `pixels`, int64 [b]."""
        return np.searchsorted(self.rows, index)


def gathered(pixels: torch.Tensor, places: torch.Tensor, *, pinned: bool = False) -> torch.Tensor:
    """A copy of pixels[places], uint8 [b, H, W, C], in words of 8 bytes where images are whole ones.

    pixels: uint8 [N, H, W, C], contiguous; places: int64 [b].
    """
    images = pixels.flatten(1)
    if images.shape[1] % 8 == 0:
        images = images.view(torch.int64)
    shape = (len(places), images.shape[1])
    out = torch.empty(shape, dtype=images.dtype, pin_memory=True) if pinned else None
    return torch.index_select(images, 0, places, out=out).view(torch.uint8).view(-1, *pixels.shape[1:])


def _require_memory(needed: int, images: int, device: torch.device, copies: int) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()  # memory that torch holds unused, for example from an earlier cache, is free too
        free = torch.cuda.mem_get_info(device)[0]
    else:
        free = available_memory()
    if needed * copies <= free * _USABLE:
        return
    name, other = ("gpu", "ram or none") if device.type == "cuda" else ("ram", "none")
    each = f" on each of {copies} ranks" if copies > 1 else ""
    raise UserError(
        f"loader.cache='{name}' needs {needed / 1e9:.1f} GB for {images:,} images{each}, but may use only "
        f"{_USABLE:.0%} of the {free / 1e9:.1f} GB of free memory: use --loader.cache {other}, or a set of smaller "
        "images"
    )
