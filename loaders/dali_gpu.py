"""The renderer that decodes and augments with DALI on the GPU."""

from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import chain, islice
from typing import Literal

import torch

from loaders.dali import DaliPipeline
from loaders.reader import Reader
from loaders.source import Source
from loaders.stream import Request


class GpuDaliRenderer:
    """DALI decodes and augments on the GPU, on its own stream and ahead of the consumer.

    Where the source keeps decoded pictures, they are fed instead of JPEGs, from the GPU's memory or the host's.
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
        self._pipelines: dict[bool, DaliPipeline] = {}
        self._live: Generator[tuple[Request, torch.Tensor]] | None = None
        cached = source.cache is not None
        self._make: Callable[[bool], DaliPipeline] = lambda augment: DaliPipeline(
            source,
            batch_size,
            decode=None if cached else decode,
            augment=augment,
            device=device,
            threads=threads,
            prefetch=prefetch,
            hw_decoder_load=hw_decoder_load,
            pixels_on=source.cache.pixels.device.type if source.cache is not None else "cpu",
        )

    def render(self, requests: Iterable[Request]) -> Iterator[tuple[Request, torch.Tensor]]:
        """Each request with its images, uint8 [b, size, size, 3] on the GPU."""
        self._live = self._render(requests)
        return self._live

    def _render(self, requests: Iterable[Request]) -> Generator[tuple[Request, torch.Tensor]]:
        remaining = iter(requests)
        for first in islice(remaining, 1):
            requests, augment = chain([first], remaining), first.params is not None
            if self._source.cache is not None and not augment:
                for request, pictures in self._kept(requests):
                    yield request, pictures.to(self._device, non_blocking=True)
                return
            if augment not in self._pipelines:
                self._pipelines[augment] = self._make(augment)
            inputs = self._reader.jpegs(requests) if self._source.cache is None else self._kept(requests)
            yield from self._pipelines[augment].run(inputs)

    def _kept(self, requests: Iterable[Request]) -> Iterator[tuple[Request, torch.Tensor]]:
        assert self._source.cache is not None
        if self._source.cache.pixels.device.type == "cpu":
            return self._reader.pixels(requests)
        # On the GPU, gathering is a kernel on the consumer's own stream.
        own = (request.own() for request in requests)
        return ((request, self._reader.gather(request, range(len(request.index)))) for request in own)

    def close(self) -> None:
        """End the threads and give DALI's buffers back; what `render` returned ends as well."""
        if self._live is not None:
            self._live.close()
        self._reader.close()
        self._pipelines.clear()
