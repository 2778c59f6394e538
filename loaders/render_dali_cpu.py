"""The renderer that decodes with DALI on the CPU."""

import time
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import pairwise

import cv2
import numpy as np
import torch

from loaders.dali_pipeline import DaliPipeline
from loaders.decode import Pixels, changes, finish, load
from loaders.reader import Reader
from loaders.render_host import Ring, Slot
from loaders.renderer import Rendered
from loaders.request import Request
from loaders.source import Source


class CpuDaliRenderer:
    """DALI decodes on the CPU; OpenCV augments on threads, because DALI's CPU warp takes ten times as long."""

    def __init__(
        self, source: Source, reader: Reader, batch_size: int, *, threads: int, prefetch: int, device: torch.device
    ) -> None:
        cv2.setNumThreads(1)
        self._source = source
        self._reader = reader
        self._pipeline = DaliPipeline(
            source,
            batch_size,
            decode="cpu",
            augment=False,
            device=torch.device("cpu"),
            threads=threads,
            prefetch=prefetch,
        )
        self._device = device
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="cpu-dali-renderer")
        size = source.shards.size
        self._ring = Ring(3, (batch_size, size, size, 3), device)

    def render(self, requests: Iterable[Request]) -> Rendered:
        """See loaders.renderer.Renderer."""
        ready: tuple[Request, Slot] | None = None
        parts: list[Future[None]] = []
        try:
            for request, decoded in self._pipeline.run(self._reader.jpegs(requests)):
                if request.params is None:
                    yield request, decoded.to(self._device)
                    continue
                slot = self._ring.take()
                parts = [
                    self._pool.submit(self._augment, request, decoded.numpy(), slot, places)
                    for places in _shares(len(decoded), self._threads)
                ]
                if ready is not None:  # the consumer works on the previous batch while this one is augmented
                    yield ready[0], self._on_device(ready[1])
                for part in parts:
                    part.result()
                ready = request, slot
            if ready is not None:
                yield ready[0], self._on_device(ready[1])
        finally:  # an abandoned stream must not write into buffers that the next one fills
            wait([part for part in parts if not part.cancel()])

    def _on_device(self, slot: Slot) -> torch.Tensor:
        begin = time.perf_counter()
        image = slot.on_device()
        self._source.clock.add(copy=time.perf_counter() - begin)
        return image

    def _augment(self, request: Request, decoded: Pixels, slot: Slot, places: range) -> None:
        slot.wait_until_read()
        begin = time.perf_counter()
        drawn = changes(request.params, places, decoded.shape[1], request.border)
        for place, change in zip(places, drawn, strict=True):
            load(decoded[place], change, slot.pixels[place])
            finish(change, slot.pixels[place])
        self._source.clock.add(augment=time.perf_counter() - begin)

    def close(self) -> None:
        """End the threads and free DALI's buffers."""
        self._pool.shutdown(cancel_futures=True)
        del self._pipeline


def _shares(samples: int, threads: int) -> list[range]:
    """Consecutive places in equal parts, one per thread."""
    edges = np.linspace(0, samples, threads + 1).astype(int).tolist()
    return [range(start, stop) for start, stop in pairwise(edges)]
