"""The inputs of a DALI pipeline, read ahead on threads."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import numpy as np
import torch

from loaders.decode import UNCHANGED, Pixels, decode, require_size
from loaders.request import Request, StandIns
from loaders.source import Source

Content = TypeVar("Content")

_READ_TOGETHER = 32  # samples whose bytes one task reads and checks


class Reader:
    """JPEGs or cached images of requests, read by `threads` threads, `ahead` requests in advance.

    pinned: whether cached images are read into pinned memory, from which a GPU copies without another copy before.
    """

    def __init__(self, source: Source, *, threads: int, ahead: int, pinned: bool = False) -> None:
        self._source = source
        self._pinned = pinned
        self._ahead = ahead
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="renderer-reader")

    def jpegs(self, requests: Iterable[Request]) -> Iterator[tuple[Request, list[Pixels]]]:
        """Each request, with stand-ins for corrupt samples, and its JPEGs of the set's size, uint8 arrays."""
        for request, parts in self._ahead_of(requests, self._read, _READ_TOGETHER):
            stand_ins = {place: sample for _, some in parts for place, sample in some.items()}
            yield request.with_stand_ins(stand_ins), [jpeg for jpegs, _ in parts for jpeg in jpegs]

    def images(self, requests: Iterable[Request]) -> Iterator[tuple[Request, torch.Tensor]]:
        """Each request, with stand-ins, and its images as Source.edge says, uint8 [b, edge, edge, 3]: from a cache in
        host memory, or decoded."""
        if self._source.cache is None:
            for request, parts in self._ahead_of(requests, self._decode, _READ_TOGETHER):
                stand_ins = {place: sample for _, some in parts for place, sample in some.items()}
                yield request.with_stand_ins(stand_ins), torch.from_numpy(np.concatenate([part for part, _ in parts]))
            return
        for _, (gathered,) in self._ahead_of(requests, lambda request, _: self._gather(request), 1 << 31):
            yield gathered

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(cancel_futures=True)

    def _ahead_of(
        self, requests: Iterable[Request], work: Callable[[Request, range], Content], together: int
    ) -> Iterator[tuple[Request, list[Content]]]:
        def submit(request: Request) -> tuple[Request, list[Future[Content]]]:
            samples = len(request.index)
            chunks = [range(start, min(start + together, samples)) for start in range(0, samples, together)]
            return request, [self._pool.submit(work, request, places) for places in chunks]

        remaining = iter(requests)
        pending = deque(submit(request) for request in islice(remaining, self._ahead))
        while pending:
            request, parts = pending.popleft()
            contents = [part.result() for part in parts]
            pending.extend(submit(following) for following in islice(remaining, 1))
            yield request, contents

    def _gather(self, request: Request) -> tuple[Request, torch.Tensor]:
        """The request, with stand-ins, and a copy of its cached images."""
        assert self._source.cache is not None
        begin = time.perf_counter()
        request = request.with_stand_ins(self._source.stand_ins(request))
        images = self._source.cache.images(request.index, self._source.edge(request.size), pinned=self._pinned)
        self._source.clock.add(copy=time.perf_counter() - begin)
        return request, images

    def _decode(self, request: Request, places: range) -> tuple[Pixels, StandIns]:
        source, begin = self._source, time.perf_counter()
        jpegs, stand_ins = source.jpegs(request, places)
        read, edge = time.perf_counter() - begin, source.edge(request.size)
        images = np.empty((len(places), edge, edge, 3), np.uint8)
        for place, jpeg, image in zip(places, jpegs, images, strict=True):
            try:
                decode(jpeg, UNCHANGED, image, source.shards.size)
            except ValueError as error:
                raise source.undecodable(stand_ins.get(place, int(request.index[place])), error) from error
        source.clock.add(read=read, decode=time.perf_counter() - begin - read)
        return images, stand_ins

    def _read(self, request: Request, places: range) -> tuple[list[Pixels], StandIns]:
        begin = time.perf_counter()
        jpegs, stand_ins = self._source.jpegs(request, places)
        for place, jpeg in zip(places, jpegs, strict=True):
            try:
                require_size(jpeg, self._source.shards.size)
            except ValueError as error:
                raise self._source.undecodable(stand_ins.get(place, int(request.index[place])), error) from error
        arrays = [np.frombuffer(jpeg, dtype=np.uint8) for jpeg in jpegs]
        self._source.clock.add(read=time.perf_counter() - begin)
        return arrays, stand_ins
