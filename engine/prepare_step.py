"""How a step is run: compiled, distributed over the ranks, replayed as a CUDA graph."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from configs.errors import UserError
from engine.distributed import Ranks
from engine.step import Gradients, Iteration
from loaders.batch import TENSORS, Batch

_MOST_NETWORKS = 64  # that a process may compile, say of a grid; folds of one backbone share a compilation
_WARM_UP_STEPS = 3  # libraries choose their algorithms in the first steps, which must not be captured


@dataclass(frozen=True, kw_only=True)
class Speed:
    """How a step is run. channels_last None means the layout that suits the backbone."""

    channels_last: bool | None = None
    compile: bool = False
    cuda_graph: bool = False


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A function batch -> loss that trains on the batch; how it runs; and, for the user, why not as requested."""

    iteration: Callable[[Batch], Tensor]
    compiled: bool
    captured: bool
    remarks: list[str]


def prepare(
    iteration: Iteration,
    model: nn.Module,
    example: Batch,
    ranks: Ranks,
    *,
    compiling: bool,
    capturing: bool,
    others: Sequence[Batch] = (),
) -> Prepared:
    """`iteration` over `model`, distributed over the ranks, and compiled and captured if requested and possible.

    `example` is a batch of the shapes to come, for the trial steps; `others`: the same of other sizes of images. Every
    rank must request the same.
    """
    network, remarks = model, []
    if ranks.device.type == "cuda":
        torch.backends.cudnn.benchmark = True  # each shape's first step times the algorithms; before any capture
    if compiling:
        network, remark = _compiled(model, iteration.gradients, example, *others)
        if not ranks.all_of(not remark):  # all ranks or none, so that they exchange gradients in the same order
            network = model
            remarks = [remark or "speed.compile: continuing without it, because it failed on another rank"]
    compiled = network is not model
    if ranks.world_size > 1:
        network = _distributed(network, ranks)
    iteration = replace(iteration, gradients=replace(iteration.gradients, network=network))
    if not capturing:
        return Prepared(iteration=iteration, compiled=compiled, captured=False, remarks=remarks)
    graphs: dict[torch.Size, Callable[[Batch], Tensor]] = {}
    for batch in (example, *others):  # all or none
        graphs[batch.image.shape], remark = _captured(iteration, model, batch)
        if remark:
            return Prepared(iteration=iteration, compiled=compiled, captured=False, remarks=[*remarks, remark])

    def replay(batch: Batch) -> Tensor:
        return graphs[batch.image.shape](batch)

    return Prepared(iteration=replay, compiled=compiled, captured=True, remarks=remarks)


class CapturedIteration:
    """An iteration on one GPU, captured over static buffers and replayed: one launch from the host, not a thousand.

    Each replay reads the generator's state, the learning rate and the average's decay, so that all of them stay
    functions of the step. The optimiser and the average must be capturable.
    """

    def __init__(self, iteration: Iteration, model: nn.Module, example: Batch) -> None:
        tensors = {name: getattr(example, name).clone() for name in TENSORS}
        self._static = replace(example, **tensors)
        with _unchanged_training(iteration, model):
            side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(_WARM_UP_STEPS):
                    iteration(self._static)
            torch.cuda.current_stream().wait_stream(side)
            # Gradients allocated during the capture are in the graph's memory, and each replay overwrites them.
            model.zero_grad(set_to_none=True)
            self._graph = torch.cuda.CUDAGraph()
            # The loader's threads may use CUDA meanwhile.
            with (
                _capturable(iteration.optimizer),
                torch.cuda.graph(self._graph, capture_error_mode="thread_local"),
            ):
                self._loss = iteration(self._static)

    def __call__(self, batch: Batch) -> Tensor:
        """Like Iteration; the loss is overwritten by the next call."""
        for name in TENSORS:
            getattr(self._static, name).copy_(getattr(batch, name), non_blocking=True)
        self._graph.replay()
        return self._loss


class CompiledNetwork(nn.Module):
    """A network that predicts, compiled when it is first called with `samples` samples, as the step is.

    Batches of another size, such as a smaller last one, go through it as it is, and so do all where compilation fails:
    then `failed` is called with the reason.
    """

    def __init__(self, network: nn.Module, samples: int, failed: Callable[[str], None]) -> None:
        super().__init__()
        self.network = network
        self._samples = samples
        self._failed = failed
        self._compiled: nn.Module | None = _as_one_graph(network)

    def forward(self, image: Tensor, meta: Tensor) -> Tensor:
        """What the network says of image uint8 [b, H, W, 3] and meta float32 [b, M]."""
        if self._compiled is not None and len(image) == self._samples:
            try:
                logits: Tensor = self._compiled(image, meta)
                return logits
            # As in _compiled below: in any way.
            except Exception as error:
                self._compiled = None
                self._failed(f"torch.compile failed: {_first_line(error)}")
        eager: Tensor = self.network(image, meta)
        return eager


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


def _compiled(model: nn.Module, gradients: Gradients, *examples: Batch) -> tuple[nn.Module, str]:
    network = _as_one_graph(model)
    try:
        with _unchanged(model.buffers()):
            for example in examples:
                replace(gradients, network=network)(example)
            model.zero_grad(set_to_none=True)
    # Compilation can fail in any way: no compiler, an unsupported operator, a bug in the compiler.
    except Exception as error:
        torch.compiler.reset()
        return model, f"speed.compile: continuing without it, because torch.compile failed: {_first_line(error)}"
    return network, ""


def _as_one_graph(network: nn.Module) -> nn.Module:
    torch._dynamo.config.recompile_limit = _MOST_NETWORKS
    compiled: nn.Module = torch.compile(network, dynamic=False, fullgraph=True)  # type: ignore[assignment]
    return compiled


def _captured(iteration: Iteration, model: nn.Module, example: Batch) -> tuple[Callable[[Batch], Tensor], str]:
    if example.image.device.type != "cuda":
        return iteration, "speed.cuda_graph: continuing without it, because there is no GPU"
    if isinstance(iteration.gradients.network, DistributedDataParallel):
        why = "because several ranks exchange gradients within the step"
        return iteration, f"speed.cuda_graph: continuing without it, {why}"
    try:
        return CapturedIteration(iteration, model, example), ""
    except RuntimeError as error:
        reason = _first_line(error)
    try:  # a failed capture may leave the random number generator unusable
        with _unchanged_training(iteration, model):
            iteration(example)
            torch.cuda.synchronize()
    except RuntimeError as error:
        raise UserError(
            f"speed.cuda_graph: capturing failed ({reason}) and left CUDA unusable: run the command again with "
            "--speed.cuda_graph off"
        ) from error
    model.zero_grad(set_to_none=True)
    return iteration, f"speed.cuda_graph: continuing without it, because capturing failed: {reason}"


def _distributed(network: nn.Module, ranks: Ranks) -> nn.Module:
    # Running statistics are shared before each evaluation, not in each step; the option's name depends on the version.
    known = inspect.signature(DistributedDataParallel).parameters
    option = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    options: dict[str, Any] = {option: False}
    devices = [ranks.device.index] if ranks.device.type == "cuda" else None
    return DistributedDataParallel(network, device_ids=devices, **options)


@contextmanager
def _unchanged(tensors: Iterable[Tensor]) -> Iterator[None]:
    """Restore the values of `tensors` afterwards, where they lie: trial steps do not count."""
    kept = [(tensor, tensor.clone()) for tensor in tensors]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, before in kept:
                tensor.copy_(before)


@contextmanager
def _unchanged_training(iteration: Iteration, model: nn.Module) -> Iterator[None]:
    """Restore all that an iteration changes: weights, running statistics, averages, moments, loss scale."""
    optimizer, scaler = iteration.optimizer, iteration.gradients.scaler
    networks = [model] if iteration.average is None else [model, iteration.average.model]
    kept = [tensor for network in networks for tensor in (*network.parameters(), *network.buffers())]
    moments = [tensor for state in optimizer.state.values() for tensor in state.values()]
    scale = scaler.state_dict()
    try:
        with _unchanged([*kept, *moments]):
            yield
    finally:
        if not moments:  # those of a new optimiser, made by its first step, begin with zeros
            for state in optimizer.state.values():
                for tensor in state.values():
                    tensor.zero_()
        scaler.load_state_dict(scale)


@contextmanager
def _capturable(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Allow the optimiser to be captured. Not for good: torch warns where such an optimiser steps by itself."""
    for group in optimizer.param_groups:
        group["capturable"] = True
    try:
        yield
    finally:
        for group in optimizer.param_groups:
            group["capturable"] = False


def _first_line(error: BaseException) -> str:
    words = str(error).strip().splitlines()
    return f"{type(error).__name__}: {words[0][:200]}" if words else type(error).__name__
