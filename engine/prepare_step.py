"""How the gradients of a step are computed: compiled, distributed over the ranks, replayed as a CUDA graph."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from configs.errors import UserError
from engine.distributed import Ranks
from engine.step import Gradients
from loaders.batch import TENSORS, Batch

_WARM_UP_STEPS = 3  # libraries choose their algorithms in the first steps, which must not be captured


@dataclass(frozen=True, kw_only=True)
class Speed:
    """How a step is run. channels_last None means the layout that suits the backbone."""

    channels_last: bool | None = None
    compile: bool = False
    cuda_graph: bool = False


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A function batch -> loss that computes gradients; how it runs; and, for the user, why not as requested."""

    gradients: Callable[[Batch], Tensor]
    compiled: bool
    captured: bool
    remarks: list[str]


def prepare(
    gradients: Gradients, model: nn.Module, example: Batch, ranks: Ranks, *, compiling: bool, capturing: bool
) -> Prepared:
    """`gradients` over `model`, distributed over the ranks, and compiled and captured if requested and possible.

    `example` is a batch of the shapes to come, for the trial steps. Every rank must request the same.
    """
    network, remarks = model, []
    if ranks.device.type == "cuda":
        torch.backends.cudnn.benchmark = True  # each shape's first step times the algorithms; before any capture
    if compiling:
        network, remark = _compiled(model, gradients, example)
        if not ranks.all_of(not remark):  # all ranks or none, so that they exchange gradients in the same order
            network = model
            remarks = [remark or "speed.compile: continuing without it, because it failed on another rank"]
    compiled = network is not model
    if ranks.world_size > 1:
        network = _distributed(network, ranks)
    gradients = replace(gradients, network=network)
    if not capturing:
        return Prepared(gradients=gradients, compiled=compiled, captured=False, remarks=remarks)
    captured, remark = _captured(gradients, model, example)
    remarks += [remark] if remark else []
    return Prepared(gradients=captured, compiled=compiled, captured=not remark, remarks=remarks)


class CapturedGradients:
    """Gradients on one GPU, captured over static buffers and replayed: one launch from the host, not a thousand.

    Dropout stays a function of the seed: the graph reads the generator's state at each replay.
    """

    def __init__(self, gradients: Gradients, model: nn.Module, example: Batch) -> None:
        tensors = {name: getattr(example, name).clone() for name in TENSORS}
        self._static = replace(example, **tensors)
        with _unchanged_buffers(model):
            side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(_WARM_UP_STEPS):
                    gradients(self._static)
            torch.cuda.current_stream().wait_stream(side)
            # Gradients allocated during the capture are in the graph's memory, and each replay overwrites them.
            gradients.network.zero_grad(set_to_none=True)
            self._graph = torch.cuda.CUDAGraph()
            # The loader's threads may use CUDA meanwhile.
            with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
                self._loss = gradients(self._static)

    def __call__(self, batch: Batch) -> Tensor:
        """Like Gradients; the loss is overwritten by the next call."""
        for name in TENSORS:
            getattr(self._static, name).copy_(getattr(batch, name), non_blocking=True)
        self._graph.replay()
        return self._loss


def blank_batch(samples: int, size: int, meta_features: int, device: torch.device) -> Batch:
    """A batch of the right shapes and dtypes, for trial steps: black images, every other one a melanoma."""
    index = torch.arange(samples, device=device)
    return Batch(
        epoch=0,
        step=0,
        image=torch.zeros(samples, size, size, 3, dtype=torch.uint8, device=device),
        meta=torch.zeros(samples, meta_features, device=device),
        target=(index % 2).float(),
        diagnosis=torch.zeros_like(index),
        index=index,
        valid=torch.ones(samples, dtype=torch.bool, device=device),
    )


def _compiled(model: nn.Module, gradients: Gradients, example: Batch) -> tuple[nn.Module, str]:
    network: nn.Module = torch.compile(model, dynamic=False, fullgraph=True)  # type: ignore[assignment]
    try:
        with _unchanged_buffers(model):
            replace(gradients, network=network)(example)
            model.zero_grad(set_to_none=True)
    # Compilation can fail in any way: no compiler, an unsupported operator, a bug in the compiler.
    except Exception as error:
        torch.compiler.reset()
        return model, f"speed.compile: continuing without it, because torch.compile failed: {_first_line(error)}"
    return network, ""


def _captured(gradients: Gradients, model: nn.Module, example: Batch) -> tuple[Callable[[Batch], Tensor], str]:
    if example.image.device.type != "cuda":
        return gradients, "speed.cuda_graph: continuing without it, because there is no GPU"
    if isinstance(gradients.network, DistributedDataParallel):
        why = "because several ranks exchange gradients within the step"
        return gradients, f"speed.cuda_graph: continuing without it, {why}"
    try:
        return CapturedGradients(gradients, model, example), ""
    except RuntimeError as error:
        reason = _first_line(error)
    try:  # a failed capture may leave the random number generator unusable
        with _unchanged_buffers(model):
            gradients(example)
            torch.cuda.synchronize()
    except RuntimeError as error:
        raise UserError(
            f"speed.cuda_graph: capturing failed ({reason}) and left CUDA unusable: run the command again with "
            "--speed.cuda_graph off"
        ) from error
    gradients.network.zero_grad(set_to_none=True)
    return gradients, f"speed.cuda_graph: continuing without it, because capturing failed: {reason}"


def _distributed(network: nn.Module, ranks: Ranks) -> nn.Module:
    # Running statistics are shared before each evaluation, not in each step; the option's name depends on the version.
    known = inspect.signature(DistributedDataParallel).parameters
    option = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    options: dict[str, Any] = {option: False}
    devices = [ranks.device.index] if ranks.device.type == "cuda" else None
    return DistributedDataParallel(network, device_ids=devices, **options)


@contextmanager
def _unchanged_buffers(model: nn.Module) -> Iterator[None]:
    """Restore the running statistics afterwards: trial steps do not count."""
    kept = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        for buffer, before in kept:
            buffer.copy_(before)


def _first_line(error: BaseException) -> str:
    words = str(error).strip().splitlines()
    return f"{type(error).__name__}: {words[0][:200]}" if words else type(error).__name__
