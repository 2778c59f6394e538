"""What a DALI pipeline is fed with, read on threads before it is asked for."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import numpy as np
import torch

from loaders.pixels import Pixels
from loaders.source import Source
from loaders.stream import Request

Content = TypeVar("Content")

_READ_TOGETHER = 32  # samples whose bytes one task reads and checks


class Reader:
    """JPEGs or kept pixels of requests, made by `threads` threads, `ahead` requests before they are asked for."""

    def __init__(self, source: Source, *, threads: int, ahead: int) -> None:
        self._source = source
        self._ahead = ahead
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="renderer-reader")

    def jpegs(self, requests: Iterable[Request]) -> Iterator[tuple[Request, list[Pixels]]]:
        """Each request, damaged samples dealt with, and its JPEGs as uint8 arrays that share the shards' memory."""
        for request, parts in self._ahead_of(requests, self._read, _READ_TOGETHER):
            yield request, [jpeg for part in parts for jpeg in part]

    def pixels(self, requests: Iterable[Request]) -> Iterator[tuple[Request, torch.Tensor]]:
        """Each request and its pictures from the cache, uint8 [b, size, size, 3], where that lies in host memory."""
        for request, (pictures,) in self._ahead_of(requests, self.gather, 1 << 31):
            yield request, pictures

    def gather(self, request: Request, places: range) -> torch.Tensor:
        """The kept pictures of a whole request, made by the calling thread."""
        assert self._source.cache is not None
        begin = time.perf_counter()
        self._source.settle(request, places)
        pictures = self._source.cache.pictures(request.index)
        self._source.clock.add(copy=time.perf_counter() - begin)
        return pictures

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(cancel_futures=True)

    def _ahead_of(
        self, requests: Iterable[Request], work: Callable[[Request, range], Content], together: int
    ) -> Iterator[tuple[Request, list[Content]]]:
        def submit(request: Request) -> tuple[Request, list[Future[Content]]]:
            request, samples = request.own(), len(request.index)
            chunks = [range(start, min(start + together, samples)) for start in range(0, samples, together)]
            return request, [self._pool.submit(work, request, places) for places in chunks]

        remaining = iter(requests)
        pending = deque(submit(request) for request in islice(remaining, self._ahead))
        while pending:
            request, parts = pending.popleft()
            contents = [part.result() for part in parts]
            pending.extend(submit(following) for following in islice(remaining, 1))
            yield request, contents

    def _read(self, request: Request, places: range) -> list[Pixels]:
        begin = time.perf_counter()
        jpegs = [np.frombuffer(jpeg, dtype=np.uint8) for jpeg in self._source.jpegs(request, places)]
        self._source.clock.add(read=time.perf_counter() - begin)
        return jpegs
