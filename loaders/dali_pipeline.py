"""An NVIDIA DALI pipeline: decoding, and on the GPU augmentation too.

Our stream decides which samples come when and how they are augmented, so the bytes (or cached pixels), matrices,
colours and boxes of a batch are external inputs. DALI's own tar reader cannot shuffle globally, resume, or change its
world size.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import numpy as np
import simplejpeg
import torch
import torch.utils.dlpack

from configs.errors import UserError
from configs.schema import Border
from loaders.augment import AugmentParams, pixel_matrices
from loaders.decode import Pixels
from loaders.request import Request
from loaders.source import Source


def require_dali() -> str | None:
    """None if DALI can be imported, else why it cannot and what to do."""
    try:
        import nvidia.dali  # noqa: F401
    except ImportError as error:
        return f"NVIDIA DALI is not installed ({error}): install it (Linux only), or use --loader.placement host"
    return None


class DaliPipeline:
    """A DALI pipeline that renders one request per run, from JPEGs or from cached pixels.

    decode: "cpu" or "mixed" for JPEG bytes; None for decoded images in host memory.
    augment: whether it warps, recolours and cuts out, on `device`; the CPU version of that graph is for comparison
    only, because DALI's CPU warp is far too slow for training.
    size: the edge of every request's images, in pixels (None: that of the stored ones), made by augmenting those of
    Source.edge.
    border: that of every request it augments.
    """

    def __init__(
        self,
        source: Source,
        batch_size: int,
        *,
        decode: Literal["cpu", "mixed"] | None,
        augment: bool,
        size: int | None = None,
        border: Border = "constant",
        device: torch.device,
        threads: int,
        prefetch: int,
        hw_decoder_load: float = 0.0,
    ) -> None:
        problem = require_dali()
        if problem is not None:
            raise UserError(problem)
        from nvidia.dali import Pipeline

        self._source = source
        self._device = device
        self._augment = augment
        self._size = size or source.shards.size
        self._edge = source.edge(self._size)
        self._pipeline: Any = Pipeline(
            batch_size=batch_size,
            num_threads=threads,
            device_id=(device.index or 0) if device.type == "cuda" else None,
            prefetch_queue_depth=prefetch,
        )
        with self._pipeline:
            if decode is None:
                images = _fed_pixels(self._next_images, device)
            else:
                images = _decoded(self._next_images, decode, device, hw_decoder_load, source.shards.size)
            if augment:
                images = _augmented(images, self._next_params, border, self._size)
            self._pipeline.set_outputs(images)
        self._pipeline.build()
        self._inputs: Iterator[tuple[Request, Any]] = iter(())
        self._images: deque[Any] = deque()
        self._params: deque[AugmentParams] = deque()
        # What DALI reads where it lies must live until it has: until the output is there, on a GPU by this event.
        self._pending: deque[tuple[Request, Any]] = deque()
        self._read: deque[tuple[torch.cuda.Event, Any]] = deque()
        self._broken = False

    def run(self, inputs: Iterable[tuple[Request, Any]]) -> Iterator[tuple[Request, torch.Tensor]]:
        """Each request with its images, uint8 [b, size, size, 3] on the device: DALI's own buffer, not a copy.

        inputs: each request with a list of JPEGs (uint8 arrays) or a batch of pixels (uint8 [b, edge, edge, 3]), which
        nobody may write to until the pipeline has let go of them.
        """
        assert not self._broken, "an error left unread batches in DALI's queue: open another loader"
        self._inputs = iter(inputs)
        self._images.clear()
        self._params.clear()
        try:
            self._pipeline.reset()
            self._pipeline.schedule_run()  # the first one fills the whole queue
            while self._pending:
                begin = time.perf_counter()
                images = self._next_output()
                self._source.clock.add(decode=time.perf_counter() - begin)
                request = self._let_go()
                # The dynamic executor does not reuse a buffer that is still held, so the next run can start at once.
                self._pipeline.release_outputs()
                self._pipeline.schedule_run()
                self._source.clock.batch(len(request.index), 1)
                yield request, images
                del images  # lets DALI reuse the buffer while this waits for the next one
        except GeneratorExit:
            self._drain()
            raise
        except BaseException:
            self._broken = True
            raise

    def _drain(self) -> None:
        """Discard the images of an abandoned stream, so that the next one does not get them."""
        self._inputs = iter(())
        self._images.clear()
        self._params.clear()
        self._pipeline.schedule_run()  # lets DALI see the end of its input, or it would not refill its queue later
        while self._pending:
            self._pipeline.share_outputs()
            self._pipeline.release_outputs()
            self._pending.popleft()

    def _let_go(self) -> Request:
        """The request whose output has just been shared; its input is dropped once that output has been computed."""
        request, fed = self._pending.popleft()
        if self._device.type == "cuda":
            self._read.append((torch.cuda.current_stream(self._device).record_event(), fed))
            while self._read and self._read[0][0].query():  # type: ignore[no-untyped-call]
                self._read.popleft()
        return request

    def _next_output(self) -> torch.Tensor:
        # With torch's stream, an output is ready for work on that stream, and freed only after that work.
        stream = torch.cuda.current_stream(self._device) if self._device.type == "cuda" else None
        try:
            (images,) = self._pipeline.share_outputs(stream)
        except RuntimeError as error:
            raise self._explained(self._pending[0][0], error) from error
        tensor: torch.Tensor = torch.utils.dlpack.from_dlpack(images.as_tensor())
        return tensor

    def _explained(self, request: Request, error: RuntimeError) -> UserError:
        """DALI does not say which sample it failed on: name the first one that libjpeg-turbo cannot decode either."""
        for index in request.index.tolist():
            try:
                simplejpeg.decode_jpeg(self._source.shards.jpeg(index))
            except ValueError as reason:
                return self._source.undecodable(index, reason)
        keys = ", ".join(str(self._source.shards.key[index]) for index in request.index.tolist())
        return UserError(
            f"{self._source.shards.folder}: DALI failed on the batch of samples {keys}: {error}; try "
            "--loader.placement host"
        )

    def _next_images(self) -> Any:
        """Called by DALI for the JPEGs or pixels of one more run; StopIteration, after the last request, ends it."""
        if not self._images:
            self._advance()
        return self._images.popleft()

    def _next_params(self) -> tuple[Any, ...]:
        """Called by DALI for the parameters of the same run: matrices, colours, anchors and shapes of the boxes."""
        if not self._params:
            self._advance()
        params = self._params.popleft()
        affine = pixel_matrices(params.affine, size=self._size, edge=self._edge, first=0.5)  # as DALI counts
        boxes = params.boxes[:, :, [1, 0, 3, 2]].astype(np.float32)
        anchors = boxes[:, :, :2].reshape(len(boxes), -1)
        shapes = (boxes[:, :, 2:] - boxes[:, :, :2]).reshape(len(boxes), -1)
        return affine, params.colour, anchors, shapes

    def _advance(self) -> None:
        request, images = next(self._inputs)
        if isinstance(images, torch.Tensor):
            images = images.numpy()  # for a tensor, DALI would ask torch for a CUDA stream even on a CPU
        self._pending.append((request, images))
        self._images.append(_listed(images) if isinstance(images, list) else images)
        if self._augment:
            assert request.params is not None
            self._params.append(request.params)


def _listed(jpegs: list[Pixels]) -> Any:
    """The same memory as one object of DALI's, which would look at each array in several ways otherwise."""
    from nvidia.dali import tensors

    dali: Any = tensors  # whose stubs know fewer arguments
    return dali.TensorListCPU([dali.TensorCPU(jpeg) for jpeg in jpegs], contiguous=False)


def _decoded(
    jpegs: Callable[[], Any],
    decode: Literal["cpu", "mixed"],
    device: torch.device,
    hw_decoder_load: float,
    size: int,
) -> Any:
    from nvidia.dali import fn, types

    encoded = fn.external_source(jpegs, batch=True, dtype=types.UINT8, ndim=1, no_copy=True)
    if decode == "cpu":
        images = fn.decoders.image(encoded, device="cpu", output_type=types.RGB)
        return images.gpu() if device.type == "cuda" else images
    return fn.decoders.image(
        encoded,
        device="mixed",
        output_type=types.RGB,
        jpeg_fancy_upsampling=True,  # as libjpeg-turbo does, so that every placement gives the same colours
        hw_decoder_load=hw_decoder_load,
        preallocate_width_hint=size,
        preallocate_height_hint=size,
    )


def _fed_pixels(pixels: Callable[[], Any], device: torch.device) -> Any:
    from nvidia.dali import fn, types

    images = fn.external_source(pixels, batch=True, dtype=types.UINT8, ndim=3, layout="HWC", no_copy=True)
    return images.gpu() if device.type == "cuda" else images


def _augmented(images: Any, params: Callable[[], tuple[Any, ...]], border: Border, size: int) -> Any:
    from nvidia.dali import fn, types

    inputs = fn.external_source(params, num_outputs=4, batch=True, dtype=types.FLOAT, ndim=[2, 2, 1, 1])
    affine, colour, anchor, shape = inputs
    images = _warped(images, affine, border, size)
    images = fn.coord_transform(images, MT=colour, dtype=types.UINT8)
    return fn.erase(images, anchor=anchor, shape=shape, axis_names="HW", fill_value=0)


def _warped(images: Any, affine: Any, border: Border, size: int) -> Any:
    from nvidia.dali import fn, types

    if border == "reflect":  # which warp_affine cannot do
        matrix = fn.cat(affine, types.Constant(np.array([[0, 0, 1]], dtype=np.float32)), axis=0)
        return fn.experimental.warp_perspective(
            images, matrix=matrix, size=[size, size], border_mode="reflect_101", interp_type=types.INTERP_LINEAR
        )
    fill = 0.0 if border == "constant" else None  # None repeats the edge
    return fn.warp_affine(images, matrix=affine, size=[size, size], interp_type=types.INTERP_LINEAR, fill_value=fill)
