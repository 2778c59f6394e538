"""The renderers that decode with NVIDIA DALI, on the CPU or on the GPU.

DALI is fed: the stream decides which samples come when and what is done to them, so the bytes, matrices and boxes
of a batch are external inputs. DALI's own tar reader could neither shuffle globally, nor resume, nor change its world
size.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from itertools import chain, islice
from typing import Any, Literal

import cv2
import numpy as np
import torch
import torch.utils.dlpack

from configs.errors import UserError
from loaders.augment import AugmentParams
from loaders.host import Pixels, Ring, Slot, augment_sample
from loaders.shards import ShardSet
from loaders.stream import Request


def require_dali() -> str | None:
    """None where DALI can be imported, else why it cannot."""
    try:
        import nvidia.dali  # noqa: F401
    except ImportError as error:
        return f"NVIDIA DALI is not installed ({error}); it has wheels for Linux only, elsewhere use the host placement"
    return None


class DaliPipeline:
    """A DALI pipeline that takes one request a run: decode and, with `augment`, warp, colour and cut out.

    `device` is where the augmentation and, for gpu, part of the decoding (mixed) run; the CPU form of the whole
    graph exists to be compared with, DALI's CPU warp being far too slow to train with.
    """

    def __init__(
        self,
        shards: ShardSet,
        batch_size: int,
        *,
        augment: bool,
        device: Literal["cpu", "gpu"],
        device_id: int | None,
        threads: int,
        prefetch: int,
        hw_decoder_load: float,
    ) -> None:
        problem = require_dali()
        if problem is not None:
            raise UserError(problem)
        from nvidia.dali import Pipeline

        self._shards = shards
        self._augment = augment
        self._on_gpu = device == "gpu"
        self._pipeline: Any = Pipeline(
            batch_size=batch_size, num_threads=threads, device_id=device_id, prefetch_queue_depth=prefetch
        )
        with self._pipeline:
            self._pipeline.set_outputs(_graph(self._next, device, hw_decoder_load, shards.size, augment))
        self._pipeline.build()
        self._requests: Iterator[Request] = iter(())
        self._pending: deque[Request] = deque()

    def run(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Any]]:
        """Each request with DALI's output, a TensorList uint8 HWC that is DALI's again once the next is asked for."""
        self._requests = iter(requests)
        self._pipeline.reset()
        self._pipeline.schedule_run()  # the first one fills the whole queue
        while self._pending:
            images = self._next_output()
            try:
                yield self._pending.popleft(), images
            except GeneratorExit:
                self._drain()
                raise
            self._pipeline.release_outputs()
            self._pipeline.schedule_run()

    def _drain(self) -> None:
        """Leave none of an abandoned run's images to the next one."""
        self._pipeline.release_outputs()
        self._requests = iter(())
        self._pipeline.schedule_run()  # lets DALI see the end, without which it would not fill its queue anew
        while self._pending:
            self._pending.popleft()
            self._pipeline.share_outputs()
            self._pipeline.release_outputs()

    def _next_output(self) -> Any:
        # Bound to torch's stream, an output is ready there, and is freed only after what reads it there.
        stream = torch.cuda.current_stream() if self._on_gpu else None
        try:
            (images,) = self._pipeline.share_outputs(stream)
        except RuntimeError as error:
            keys = ", ".join(str(self._shards.key[int(index)]) for index in self._pending[0].index)
            self._pending.clear()  # after an error of its own, a DALI pipeline cannot be used again
            raise UserError(f"{self._shards.folder}: DALI failed on one of the samples {keys}: {error}") from error
        return images

    def _next(self) -> tuple[Any, ...]:
        """DALI's call for the inputs of one more run; the end of the requests ends the run."""
        request = next(self._requests)
        jpegs = [np.frombuffer(self._shards.jpeg(int(index)), dtype=np.uint8) for index in request.index]
        self._pending.append(request)
        if not self._augment:
            return (jpegs,)
        params = request.params
        assert params is not None
        # DALI puts the centre of the first pixel at one half, so the centre of the image lies at size / 2.
        centre = self._shards.size / 2
        affine = params.affine.copy()
        affine[:, :, 2] += centre - affine[:, :, :2].sum(axis=2) * centre
        boxes = params.boxes[:, :, [1, 0, 3, 2]].astype(np.float32)
        anchors = boxes[:, :, :2].reshape(len(boxes), -1)
        shapes = (boxes[:, :, 2:] - boxes[:, :, :2]).reshape(len(boxes), -1)
        return jpegs, affine, params.colour, anchors, shapes


def _graph(
    source: Callable[[], tuple[Any, ...]],
    device: Literal["cpu", "gpu"],
    hw_decoder_load: float,
    size: int,
    augment: bool,
) -> Any:
    from nvidia.dali import fn, types

    kinds = [types.UINT8, types.FLOAT, types.FLOAT, types.FLOAT, types.FLOAT]
    dims = [1, 2, 2, 1, 1]
    used = len(kinds) if augment else 1
    jpeg, *params = fn.external_source(source, num_outputs=used, batch=True, dtype=kinds[:used], ndim=dims[:used])
    if device == "gpu":
        images = fn.decoders.image(
            jpeg,
            device="mixed",
            output_type=types.RGB,
            hw_decoder_load=hw_decoder_load,
            preallocate_width_hint=size,
            preallocate_height_hint=size,
        )
    else:
        images = fn.decoders.image(jpeg, device="cpu", output_type=types.RGB)
    if not augment:
        return images
    affine, colour, anchor, shape = params
    images = fn.warp_affine(images, matrix=affine, interp_type=types.INTERP_LINEAR, fill_value=0.0)
    images = fn.coord_transform(images, MT=colour, dtype=types.UINT8)
    return fn.erase(images, anchor=anchor, shape=shape, axis_names="HW", fill_value=0)


class CpuDaliRenderer:
    """DALI decodes on the CPU; OpenCV augments on threads, because DALI's CPU warp takes ten times as long."""

    def __init__(self, shards: ShardSet, batch_size: int, *, threads: int, prefetch: int, device: torch.device) -> None:
        cv2.setNumThreads(1)
        self._pipeline = DaliPipeline(
            shards,
            batch_size,
            augment=False,
            device="cpu",
            device_id=None,
            threads=threads,
            prefetch=prefetch,
            hw_decoder_load=0.0,
        )
        self._device = device
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="cpu-dali-renderer")
        self._ring = Ring(3, (batch_size, shards.size, shards.size, 3), device)

    def render(self, requests: Iterable[Request]) -> Iterator[tuple[Request, torch.Tensor]]:
        """Each request with its images, uint8 [b, size, size, 3]."""
        ready: tuple[Request, Slot] | None = None
        parts: list[Future[None]] = []
        try:
            for request, images in self._pipeline.run(requests):
                decoded = torch.utils.dlpack.from_dlpack(images.as_tensor())
                if request.params is None:
                    yield request, decoded.to(self._device)
                    continue
                slot = self._ring.take()
                parts = [
                    self._pool.submit(self._augment, request.params, decoded.numpy(), slot, start)
                    for start in range(self._threads)
                ]
                if ready is not None:  # the consumer works on the last batch while this one is augmented
                    yield ready[0], ready[1].on_device()
                for part in parts:
                    part.result()
                ready = request, slot
            if ready is not None:
                yield ready[0], ready[1].on_device()
        finally:  # an abandoned run must not go on writing into buffers that the next one fills
            wait(parts)

    def _augment(self, params: AugmentParams, decoded: Pixels, slot: Slot, start: int) -> None:
        slot.wait_until_read()
        for place in range(start, len(decoded), self._threads):
            augment_sample(decoded[place], params, place, slot.pixels[place])

    def close(self) -> None:
        """End the threads and give DALI's buffers back."""
        self._pool.shutdown(cancel_futures=True)
        del self._pipeline


class GpuDaliRenderer:
    """DALI decodes (mixed) and augments on the GPU; batches never touch host memory."""

    def __init__(
        self,
        shards: ShardSet,
        batch_size: int,
        *,
        threads: int,
        prefetch: int,
        device: torch.device,
        hw_decoder_load: float,
    ) -> None:
        if device.type != "cuda":
            raise UserError("loader.placement='dali-gpu' needs a CUDA GPU: take dali-cpu, host or auto")
        self._pipelines: dict[bool, DaliPipeline] = {}
        self._make: Callable[[bool], DaliPipeline] = lambda augment: DaliPipeline(
            shards,
            batch_size,
            augment=augment,
            device="gpu",
            device_id=device.index or 0,
            threads=threads,
            prefetch=prefetch,
            hw_decoder_load=hw_decoder_load,
        )

    def render(self, requests: Iterable[Request]) -> Iterator[tuple[Request, torch.Tensor]]:
        """Each request with its images, uint8 [b, size, size, 3] on the GPU."""
        remaining = iter(requests)
        for first in islice(remaining, 1):
            augment = first.params is not None
            if augment not in self._pipelines:
                self._pipelines[augment] = self._make(augment)
            for request, images in self._pipelines[augment].run(chain([first], remaining)):
                # One copy within the GPU, so that a batch is the consumer's own however long it keeps it.
                image: torch.Tensor = torch.utils.dlpack.from_dlpack(images.as_tensor())
                yield request, image.clone()

    def close(self) -> None:
        """Give DALI's buffers back."""
        self._pipelines.clear()
