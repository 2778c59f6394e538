"""What the machine reaches at best, and what a model makes of it."""

import time
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.rounds import Spread, in_turns, spread
from loaders.batch import Batch

_COPIED = 256 * 2**20  # bytes: more than any cache holds
_ROUNDS = 5


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


def of_matrix_product(model: torch.nn.Module, batch: Batch, images_per_s: float, reached: dict[str, Spread]) -> float:
    """The share of a matrix product's speed (`limits`) that training reaches at this many images/s.

    Three times the operations of the forward pass, because torch's counter forgets the groups of a convolution in its
    backward.
    """
    gflop = 3 * forward_gflop(model, batch.image[:1], batch.meta[:1])
    return round(gflop * images_per_s / reached["matrix_tflops"]["median"] / 1e3, 4)


def forward_gflop(model: torch.nn.Module, image: torch.Tensor, meta: torch.Tensor) -> float:
    """Operations (10^9, two a multiply-add) of the forward pass."""
    training = model.training
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval()(image, meta)
    model.train(training)
    return float(counter.get_total_flops()) / 1e9
