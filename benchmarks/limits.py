"""What the machine reaches at best, what a model makes of it, and what our own bookkeeping costs."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.rounds import Spread, in_turns, spread
from configs.schema import AugmentConfig
from engine.precision import autocast_of
from loaders.augment import draw_params
from loaders.batch import Batch
from loaders.order import permutation

_COPIED = 256 * 2**20  # bytes: more than any cache holds
_ROUNDS = 5
_SAMPLES = 1_000_000
_DRAWN = 2048  # samples whose parameters loaders/request.py draws at once


def limits(device: torch.device, dtype: torch.dtype) -> dict[str, Spread]:
    """What can be reached, measured in turns.

    matrix_tflops: a large matrix product in the precision of the training step, two operations a multiply-add;
    memory_gb_per_s, gpu_memory_gb_per_s: a copy within main or GPU memory, bytes read and written counted once each;
    to_gpu_gb_per_s: from pinned memory.
    """
    source = torch.randint(0, 255, (_COPIED,), dtype=torch.uint8)
    edge = 8192 if device.type == "cuda" else 1024
    left, right = (torch.randn(edge, edge, dtype=dtype, device=device) for _ in range(2))
    measured: dict[str, Callable[[], float]] = {
        "matrix_tflops": lambda: 2e-12 * edge**3 / _seconds(lambda: left @ right, device),
        "memory_gb_per_s": _copying(source, torch.empty_like(source), 2e-9),
    }
    if device.type == "cuda":
        on_gpu, pinned = source.to(device), source.pin_memory()
        measured["gpu_memory_gb_per_s"] = _copying(on_gpu, torch.empty_like(on_gpu), 2e-9)
        measured["to_gpu_gb_per_s"] = _copying(pinned, torch.empty_like(on_gpu), 1e-9)
    for measure in measured.values():
        measure()  # warm
    return {name: spread(values) for name, values in in_turns(measured, _ROUNDS).items()}


def _copying(source: torch.Tensor, target: torch.Tensor, scale: float) -> Callable[[], float]:
    return lambda: scale * source.numel() / _seconds(lambda: target.copy_(source, non_blocking=True), target.device)


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """Of one call, the best of at least three within 50 ms: a limit is what nothing disturbed."""
    on_gpu = device.type == "cuda"
    together = 8 if on_gpu else 1  # queued, so that their launch and the wait for the last are none of theirs
    found: list[float] = []
    deadline = time.perf_counter() + 0.05
    while len(found) < 3 or time.perf_counter() < deadline:
        begin = time.perf_counter()
        for _ in range(together):
            work()
        if on_gpu:
            torch.cuda.synchronize(device)
        found.append((time.perf_counter() - begin) / together)
    return min(found)


def roofline(
    model: torch.nn.Module, batch: Batch, dtype: torch.dtype, images_per_s: float, reached: dict[str, Spread]
) -> dict[str, float]:
    """What an image costs an eager step (forward and backward), and what share of the machine's limits that reaches.

    parameters_m: millions; gflop, mb: operations (10^9) and bytes read and written by operators (10^6) per image;
    of_matrix_product, of_copy_rate: as shares of `limits`, the latter above 1 where caches or fusion spare the memory.
    Operations are three times those of the forward pass: torch's counter forgets the groups of a convolution in its
    backward, which multiplies an EfficientNet's by ten.
    """
    device, images = batch.image.device, len(batch.index)
    with ByteCounter() as moved, autocast_of(dtype, device)():
        model(batch.image, batch.meta).float().sum().backward()
    model.zero_grad(set_to_none=True)
    gflop, mb = 3 * forward_gflop(model, batch.image[:1], batch.meta[:1]), moved.bytes / 1e6 / images
    memory = reached.get("gpu_memory_gb_per_s", reached["memory_gb_per_s"])
    figures = {
        "parameters_m": sum(weight.numel() for weight in model.parameters()) / 1e6,
        "gflop": gflop,
        "of_matrix_product": gflop * images_per_s / reached["matrix_tflops"]["median"] / 1e3,
        "mb": mb,
        "of_copy_rate": mb * images_per_s / memory["median"] / 1e3,
    }
    return {name: float(f"{value:.4g}") for name, value in figures.items()}


def forward_gflop(model: torch.nn.Module, image: torch.Tensor, meta: torch.Tensor) -> float:
    """Operations (10^9, two a multiply-add) of the forward pass."""
    training = model.training
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval()(image, meta)
    model.train(training)
    return float(counter.get_total_flops()) / 1e9


class ByteCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the bytes of all tensors that operators take and give; views move nothing."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count one operator."""
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            found = {id(leaf): leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, torch.Tensor)}
            self.bytes += sum(tensor.numel() * tensor.element_size() for tensor in found.values())
        return result


def costs(batch_size: int) -> dict[str, float]:
    """Microseconds per step that order and augmentation parameters of an epoch of 1,000,000 samples take."""
    cpu, order = torch.device("cpu"), permutation(_SAMPLES, 0, 0)
    draw = partial(draw_params, AugmentConfig(), seed=0, epoch=0, index=order[:_DRAWN], size=256)
    return {
        "order_us": round(_seconds(lambda: permutation(_SAMPLES, 0, 0), cpu) / _SAMPLES * batch_size * 1e6, 1),
        "params_us": round(_seconds(draw, cpu) / _DRAWN * batch_size * 1e6, 1),
    }
