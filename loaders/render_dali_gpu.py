"""The renderer that decodes and augments with DALI on the GPU."""

from collections.abc import Callable, Iterable
from itertools import chain, islice
from typing import Literal

import torch

from configs.schema import Border
from loaders.dali_pipeline import DaliPipeline
from loaders.reader import Reader
from loaders.renderer import Rendered
from loaders.request import Request
from loaders.source import Source


class GpuDaliRenderer:
    """DALI decodes and augments on the GPU, on its own stream and ahead of the consumer.

    If the source has a cache in host memory, its images are used instead of JPEGs.
    """

    def __init__(
        self,
        source: Source,
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
        self._reader = Reader(source, threads=threads, ahead=prefetch)
        self._pipelines: dict[Border | None, DaliPipeline] = {}  # None: without augmentation
        cached = source.cache is not None
        self._make: Callable[[Border | None], DaliPipeline] = lambda border: DaliPipeline(
            source,
            batch_size,
            decode=None if cached else decode,
            augment=border is not None,
            border=border or "constant",
            device=device,
            threads=threads,
            prefetch=prefetch,
            hw_decoder_load=hw_decoder_load,
        )

    def render(self, requests: Iterable[Request]) -> Rendered:
        """See loaders.renderer.Renderer."""
        remaining = iter(requests)
        for first in islice(remaining, 1):
            requests, border = chain([first], remaining), None if first.params is None else first.border
            if self._source.cache is not None and border is None:
                for request, images in self._reader.images(requests):
                    yield request, images.to(self._device, non_blocking=True)
                return
            if border not in self._pipelines:
                self._pipelines[border] = self._make(border)
            inputs = self._reader.jpegs(requests) if self._source.cache is None else self._reader.images(requests)
            yield from self._pipelines[border].run(inputs)

    def close(self) -> None:
        """End the threads and free DALI's buffers."""
        self._reader.close()
        self._pipelines.clear()
