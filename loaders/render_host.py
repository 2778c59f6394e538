"""The renderer without DALI: libjpeg-turbo and OpenCV on threads, outside the GIL, into reused buffers."""

import math
import time
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import Any

import cv2
import torch

from loaders.decode import Pixels, changes, decode, empty_images, finish, load
from loaders.renderer import Rendered
from loaders.request import Request, StandIns
from loaders.source import Source

# Samples per task: enough to hide the overhead of a task, few enough to keep all threads busy to the end of a batch.
_CHUNK_MIN, _CHUNK_MAX = 8, 32


class HostRenderer:
    """Decodes and augments local batches of `batch_size` on `threads` threads, `prefetch` batches ahead.

    If the source has a cache, nothing is decoded.
    """

    def __init__(self, source: Source, batch_size: int, *, threads: int, prefetch: int, device: torch.device) -> None:
        cv2.setNumThreads(1)  # the samples share the threads; OpenCV's own would only compete for the cores
        self._source = source
        self._prefetch = prefetch
        self._chunk = min(_CHUNK_MAX, max(_CHUNK_MIN, batch_size // threads))
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="host-renderer")
        size = source.shards.size
        self._ring = Ring(prefetch + 2, (batch_size, size, size, 3), device)

    def render(self, requests: Iterable[Request]) -> Rendered:
        """See loaders.renderer.Renderer."""
        clock, remaining = self._source.clock, iter(requests)
        pending = deque(self._submit(request) for request in islice(remaining, self._prefetch))
        try:
            while pending:
                ready = sum(all(part.done() for part in parts) for _, _, parts in pending)
                request, slot, parts = pending[0]
                stand_ins = {place: sample for part in parts for place, sample in part.result().items()}
                pending.popleft()
                pending.extend(self._submit(following) for following in islice(remaining, 1))
                clock.batch(len(request.index), ready)
                begin = time.perf_counter()
                image = slot.on_device()[: len(request.index)]
                clock.add(copy=time.perf_counter() - begin)
                yield request.with_stand_ins(stand_ins), image
        finally:  # an abandoned stream must not write into buffers that the next one fills
            wait([part for _, _, parts in pending for part in parts if not part.cancel()])

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(cancel_futures=True)

    def _submit(self, request: Request) -> "tuple[Request, Slot, list[Future[StandIns]]]":
        slot, samples = self._ring.take(request.size), len(request.index)
        chunks = [range(start, min(start + self._chunk, samples)) for start in range(0, samples, self._chunk)]
        return request, slot, [self._pool.submit(self._render_part, request, slot, places) for places in chunks]

    def _render_part(self, request: Request, slot: "Slot", places: range) -> StandIns:
        """Write the images of the samples at `places` into the slot; returns the stand-ins among them."""
        slot.wait_until_read()
        source, tick = self._source, time.perf_counter
        begin = tick()
        cached = source.cache is not None
        contents: Any
        if cached:
            contents, stand_ins = source.images(request, places)
        else:
            contents, stand_ins = source.jpegs(request, places)
        read = tick() - begin
        decoded = augmented = 0.0
        drawn = changes(request.params, places, request.size, request.border, source.edge(request.size))
        for place, content, change in zip(places, contents, drawn, strict=True):
            out = slot.pixels[place]
            begin = tick()
            if cached:
                load(content, change, out)
            else:
                try:
                    decode(content, change, out, source.shards.size)
                except ValueError as error:
                    raise source.undecodable(stand_ins.get(place, int(request.index[place])), error) from error
            opened = tick()
            finish(change, out)
            decoded += opened - begin
            augmented += tick() - opened
        source.clock.add(read=read, decode=decoded, augment=augmented)
        return stand_ins


class Slot:
    """One buffer of the ring; for a GPU it is pinned, and records when the copy out of it is done."""

    def __init__(self, shape: tuple[int, ...], device: torch.device) -> None:
        self._whole = self._image = empty_images(shape, pinned=device.type == "cuda")
        self.pixels: Pixels = self._image.numpy()
        self._device = device
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._read: torch.cuda.Event | None = None

    def resize(self, size: int) -> None:
        """Make it a buffer for as many images of `size` x `size` pixels, in the first part of the same memory."""
        samples, full, _, channels = self._whole.shape
        assert size <= full
        shape = (samples, size, size, channels)
        self._image = self._whole.flatten()[: math.prod(shape)].view(shape)
        self.pixels = self._image.numpy()

    def on_device(self) -> torch.Tensor:
        """The buffer itself on a CPU; on a GPU a copy, made concurrently with the work already queued there."""
        if self._stream is None:
            return self._image
        with torch.cuda.stream(self._stream):
            copy = self._image.to(self._device, non_blocking=True)
            self._read = self._stream.record_event()
        consumer = torch.cuda.current_stream(self._device)
        consumer.wait_event(self._read)
        copy.record_stream(consumer)
        return copy

    def wait_until_read(self) -> None:
        """Return once the slot may be overwritten."""
        if self._read is not None:
            self._read.synchronize()


class Ring:
    """Buffers used in turn: with two more than are being filled, the consumer's last two are never overwritten."""

    def __init__(self, slots: int, shape: tuple[int, ...], device: torch.device) -> None:
        self._slots = [Slot(shape, device) for _ in range(slots)]
        self._taken = 0

    def take(self, size: int | None = None) -> Slot:
        """The next slot; `size` is the images' edge, if it is not that of the slot's last use."""
        slot = self._slots[self._taken % len(self._slots)]
        self._taken += 1
        if size is not None and size != slot.pixels.shape[1]:
            slot.resize(size)
        return slot
