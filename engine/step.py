"""One batch's gradients: forward, loss and backward, run eagerly, compiled, or replayed as a CUDA graph."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from configs.errors import UserError
from configs.schema import Precision
from engine.distributed import Ranks
from loaders.stream import TENSORS, Batch
from models.losses import Objective

_WARM_UP_STEPS = 3  # libraries choose their algorithms in the first steps, which must not be captured


def chosen_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """What autocast casts to; float32 means no autocast. auto: bf16, or fp16 where the GPU has no bf16 of its own."""
    known = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if precision != "auto":
        return known[precision]
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def autocast_of(dtype: torch.dtype, device: torch.device) -> Callable[[], AbstractContextManager[Any]]:
    """A context for the forward pass: autocast to `dtype`, or nothing for float32."""
    if dtype == torch.float32:
        return nullcontext
    return lambda: torch.autocast(device.type, dtype=dtype)


@dataclass(frozen=True, kw_only=True)
class Step:
    """Batch -> its mean loss, float32 scalar; the gradients are left in the parameters. Nothing waits for the device.

    The batch goes through `network` in `parts` equal parts. The loss is summed over the valid samples and divided by
    `samples`, this rank's share of the global batch: the mean that DistributedDataParallel takes over the ranks is then
    the mean over the global batch.
    """

    network: nn.Module
    objective: Objective
    autocast: Callable[[], AbstractContextManager[Any]]
    samples: int
    parts: int = 1
    scaler: torch.amp.GradScaler | None = None

    def __call__(self, batch: Batch) -> Tensor:
        """Run forward, loss and backward."""
        self.network.zero_grad(set_to_none=True)
        total = torch.zeros((), device=batch.image.device)
        for number, part in enumerate(_parts(batch, self.parts)):
            with self._gradients_shared(last=number + 1 == self.parts):
                with self.autocast():
                    logits = self.network(part.image, part.meta)
                loss = self.objective.loss(logits, part.target, part.diagnosis, part.valid, divisor=self.samples)
                scaled = loss if self.scaler is None else self.scaler.scale(loss)
                scaled.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        return total

    def _gradients_shared(self, *, last: bool) -> AbstractContextManager[Any]:
        """Ranks exchange gradients once a batch, with its last part."""
        if last or not isinstance(self.network, DistributedDataParallel):
            return nullcontext()
        return self.network.no_sync()


class GraphedStep:
    """A Step on one GPU, captured over static buffers and replayed: the host launches one thing, not a thousand.

    Dropout stays a function of the seed: the graph reads the generator's state at each replay.
    """

    def __init__(self, step: Step, model: nn.Module, example: Batch) -> None:
        tensors = {name: getattr(example, name).clone() for name in TENSORS}
        self._static = replace(example, **tensors)
        with _unchanged_buffers(model):
            side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(_WARM_UP_STEPS):
                    step(self._static)
            torch.cuda.current_stream().wait_stream(side)
            # Gradients made within the capture live in the graph's memory, and each replay writes them anew.
            step.network.zero_grad(set_to_none=True)
            self._graph = torch.cuda.CUDAGraph()
            # The loader's threads may use CUDA meanwhile.
            with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
                self._loss = step(self._static)

    def __call__(self, batch: Batch) -> Tensor:
        """As Step; the loss is overwritten by the next call."""
        for name in TENSORS:
            getattr(self._static, name).copy_(getattr(batch, name), non_blocking=True)
        self._graph.replay()
        return self._loss


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A way to make gradients, batch -> loss; what it is; and, for a person, why it is not what was asked for."""

    gradients: Callable[[Batch], Tensor]
    compiled: bool
    captured: bool
    remarks: list[str]


def prepared_step(
    step: Step, model: nn.Module, example: Batch, ranks: Ranks, *, compiling: bool, capturing: bool
) -> Prepared:
    """`step` over `model`, compiled, distributed over the ranks and captured as asked, where that is possible.

    `example` is a batch of the shapes to come, to try it with. Every rank must ask for the same.
    """
    network, remarks = model, []
    if compiling:
        network, remark = _compiled(model, step, example)
        if not ranks.all_of(not remark):  # all ranks or none: their gradients meet in the same order
            network = model
            remarks = [remark or "speed.compile: going on without, because it failed on another rank"]
    compiled = network is not model
    if ranks.world_size > 1:
        network = _distributed(network, ranks)
    step = replace(step, network=network)
    if not capturing:
        return Prepared(gradients=step, compiled=compiled, captured=False, remarks=remarks)
    graphed, remark = _graphed(step, model, example)
    remarks += [remark] if remark else []
    return Prepared(gradients=graphed, compiled=compiled, captured=not remark, remarks=remarks)


def _compiled(model: nn.Module, step: Step, example: Batch) -> tuple[nn.Module, str]:
    network: nn.Module = torch.compile(model, dynamic=False)  # type: ignore[assignment]
    try:
        with _unchanged_buffers(model):
            replace(step, network=network)(example)
            model.zero_grad(set_to_none=True)
    # Whatever a compiler may trip over: none installed, an operator it does not know, a defect of its own.
    except Exception as error:
        torch.compiler.reset()
        return model, f"speed.compile: going on without, because torch.compile failed: {_first_line(error)}"
    return network, ""


def _graphed(step: Step, model: nn.Module, example: Batch) -> tuple[Callable[[Batch], Tensor], str]:
    if example.image.device.type != "cuda":
        return step, "speed.cuda_graph: going on without, because there is no GPU"
    if isinstance(step.network, DistributedDataParallel):
        return step, "speed.cuda_graph: going on without, because several ranks exchange gradients within the step"
    try:
        return GraphedStep(step, model, example), ""
    except RuntimeError as error:
        reason = _first_line(error)
    try:  # a failed capture may leave the generator behind, unusable
        with _unchanged_buffers(model):
            step(example)
            torch.cuda.synchronize()
    except RuntimeError as error:
        raise UserError(
            f"speed.cuda_graph: capturing failed ({reason}) and left CUDA unusable: start again with "
            "--speed.cuda_graph off"
        ) from error
    step.network.zero_grad(set_to_none=True)
    return step, f"speed.cuda_graph: going on without, because capturing failed: {reason}"


def _distributed(network: nn.Module, ranks: Ranks) -> nn.Module:
    # Running statistics are shared before each evaluation, not in each step; the option's name has changed.
    known = inspect.signature(DistributedDataParallel).parameters
    option = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    options: dict[str, Any] = {option: False}
    devices = [ranks.device.index] if ranks.device.type == "cuda" else None
    return DistributedDataParallel(network, device_ids=devices, **options)


def blank_batch(samples: int, size: int, meta_features: int, device: torch.device) -> Batch:
    """A batch of the right shapes and dtypes, for trying a step: black pictures, every other one a melanoma."""
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


def _parts(batch: Batch, parts: int) -> Iterator[Batch]:
    if parts == 1:
        yield batch
        return
    for tensors in zip(*(getattr(batch, name).chunk(parts) for name in TENSORS), strict=True):
        yield replace(batch, **dict(zip(TENSORS, tensors, strict=True)))


@contextmanager
def _unchanged_buffers(model: nn.Module) -> Iterator[None]:
    """Trial steps do not count: running statistics are put back."""
    kept = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        for buffer, before in kept:
            buffer.copy_(before)


def _first_line(error: BaseException) -> str:
    words = str(error).strip().splitlines()
    return f"{type(error).__name__}: {words[0][:200]}" if words else type(error).__name__
