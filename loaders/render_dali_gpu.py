"""The renderer that decodes and augments with DALI on the GPU."""

from collections.abc import Callable, Iterable
from itertools import groupby
from typing import Literal

import torch

from configs.schema import Border
from loaders.dali_pipeline import DaliPipeline
from loaders.reader import Reader
from loaders.renderer import Rendered
from loaders.request import Request
from loaders.source import Source

_Kind = tuple[int, Border | None]
"""What the requests of a pipeline share: the images' edge; the border, None without augmentation."""


class GpuDaliRenderer:
    """DALI decodes and augments on the GPU, on its own stream and ahead of the consumer.

    If the source has a cache in host memory, its images are used instead of JPEGs. Images that are decoded at a reduced
    scale, which DALI cannot do, are decoded on threads of the host.
    """

    def __init__(
        self,
        source: Source,
        reader: Reader,
        batch_size: int,
        *,
        decode: Literal["cpu", "mixed"],
        threads: int,
        prefetch: int,
        device: torch.device,
        hw_decoder_load: float,
    ) -> None:
        self._source = source
        self._device = device
        self._reader = reader
        self._pipelines: dict[_Kind, DaliPipeline] = {}
        self._make: Callable[[int, Border | None], DaliPipeline] = lambda size, border: DaliPipeline(
            source,
            batch_size,
            decode=None if self._feeds_pixels(size) else decode,
            augment=border is not None,
            size=size,
            border=border or "constant",
            device=device,
            threads=threads,
            prefetch=prefetch,
            hw_decoder_load=hw_decoder_load,
        )

    def render(self, requests: Iterable[Request]) -> Rendered:
        """See loaders.renderer.Renderer."""
        for kind, some in groupby(requests, _kind):
            yield from self._rendered(kind, some)

    def _rendered(self, kind: _Kind, requests: Iterable[Request]) -> Rendered:
        if self._source.cache is not None and kind[1] is None:
            for request, images in self._reader.images(requests):
                yield request, images.to(self._device, non_blocking=True)
            return
        if kind not in self._pipelines:
            self._pipelines[kind] = self._make(*kind)
        inputs = self._reader.images(requests) if self._feeds_pixels(kind[0]) else self._reader.jpegs(requests)
        yield from self._pipelines[kind].run(inputs)

    def _feeds_pixels(self, size: int) -> bool:
        return self._source.cache is not None or self._source.edge(size) != self._source.shards.size

    def close(self) -> None:
        """Free DALI's buffers."""
        self._pipelines.clear()


def _kind(request: Request) -> _Kind:
    return request.size, None if request.params is None else request.border
