"""What the machine reaches at best: bytes copied, matrix products, and on a GPU the bus and the JPEG decoder."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import numpy as np
import torch

from benchmarks.record import Limits, Work
from benchmarks.turns import Spread, in_turns, spread
from configs.machine import usable_cores
from loaders.dali import require_dali
from loaders.shards import ShardSet

_COPIED = 256 * 2**20  # bytes: more than any cache holds
_DECODED = 256  # JPEGs of a batch for the GPU's decoder
_ROUNDS = 5


@dataclass(frozen=True, kw_only=True)
class Reach:
    """The best that the training device did: floating-point operations and copied bytes, a second."""

    flops: float
    bytes: float


def limits(shards: ShardSet, device: torch.device, dtype: torch.dtype, thread_steps: list[int]) -> tuple[Limits, Reach]:
    """Measure all of them, in turns."""
    source = torch.randint(0, 255, (_COPIED,), dtype=torch.uint8)
    target = torch.empty_like(source)
    measured: dict[str, Callable[[], float]] = {
        f"memory {threads}": _copying(source, target, threads) for threads in thread_steps
    }
    measured["matmul"] = _multiplying(device, dtype)
    if device.type == "cuda":
        on_device, pinned = source.to(device), source.pin_memory()
        measured["device"] = _copying(on_device, torch.empty_like(on_device), None)
        measured["to device"] = _copying(pinned, torch.empty_like(on_device), None)
        if require_dali() is None:
            measured["nvjpeg"] = decoding(shards, "mixed")
    for one in measured.values():
        one()  # warm
    found = {name: spread(values) for name, values in in_turns(measured, _ROUNDS).items()}
    memory = {name.split()[1]: _scaled(one, 2e-9) for name, one in found.items() if name.startswith("memory ")}
    flops = found["matmul"]
    made = Limits(
        memory_gb_per_s=memory,
        matmul_tflops=_scaled(flops, 1e-12),
        precision=str(dtype).removeprefix("torch."),
        device_gb_per_s=_scaled(found["device"], 2e-9) if "device" in found else None,
        to_device_gb_per_s=_scaled(found["to device"], 1e-9) if "to device" in found else None,
        nvjpeg_images_per_s=found.get("nvjpeg"),
    )
    best = made.device_gb_per_s.median if made.device_gb_per_s else max(one.median for one in memory.values())
    return made, Reach(flops=flops.median, bytes=best * 1e9)


def shares(work: Work, images_per_s: float, reach: Reach) -> Work:
    """`work` with what a step of so many images a second makes of the machine."""
    return replace(
        work,
        flops_share=round(work.step_gflop * 1e9 * images_per_s / reach.flops, 4),
        bandwidth_share=round(work.step_gb * 1e9 * images_per_s / reach.bytes, 4),
    )


def decoding(shards: ShardSet, device: str) -> Callable[[], float]:
    """Images/s of DALI's decoder ("mixed" or "cpu") alone, the same JPEGs again and again."""
    import nvidia.dali.fn as fn
    from nvidia.dali import Pipeline

    index = np.resize(np.flatnonzero(shards.fold >= 0), _DECODED)
    jpegs = [np.frombuffer(one, np.uint8) for one in shards.jpegs(index)]
    on_gpu = device == "mixed"
    pipeline: Any = Pipeline(_DECODED, usable_cores(), 0 if on_gpu else None, prefetch_queue_depth=2)
    with pipeline:
        pipeline.set_outputs(fn.decoders.image(fn.external_source(source=lambda: jpegs), device=device))
    pipeline.build()

    def run(batches: int = 16) -> float:
        for _ in range(2):  # what was made ahead while nothing was timed
            pipeline.run()
        begin = time.perf_counter()
        for _ in range(batches):
            pipeline.run()
        if on_gpu:
            torch.cuda.synchronize()
        return batches * _DECODED / (time.perf_counter() - begin)

    return run


def _copying(source: torch.Tensor, target: torch.Tensor, threads: int | None) -> Callable[[], float]:
    """Bytes/s."""

    def run() -> float:
        before = torch.get_num_threads()
        torch.set_num_threads(threads or before)
        seconds = _seconds(lambda: target.copy_(source, non_blocking=True), target.device)
        torch.set_num_threads(before)
        return source.numel() / seconds

    return run


def _multiplying(device: torch.device, dtype: torch.dtype) -> Callable[[], float]:
    """Floating-point operations/s of a matrix product, two a multiply-add."""
    edge = 8192 if device.type == "cuda" else 1024
    one, other = (torch.randn(edge, edge, dtype=dtype, device=device) for _ in range(2))
    return lambda: 2 * edge**3 / _seconds(lambda: one @ other, device)


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """Of one call, the best of at least three within 50 ms: a limit is what nothing disturbed."""
    on_gpu = device.type == "cuda"
    together = 8 if on_gpu else 1  # queued, so that their launch and the wait for the last are none of theirs
    best, deadline = float("inf"), time.perf_counter() + 0.05
    for number in count():
        if number >= 3 and time.perf_counter() > deadline:
            return best
        begin = time.perf_counter()
        for _ in range(together):
            work()
        if on_gpu:
            torch.cuda.synchronize(device)
        best = min(best, (time.perf_counter() - begin) / together)
    raise AssertionError


def _scaled(one: Spread, factor: float) -> Spread:
    return Spread(median=_four(one.median * factor), low=_four(one.low * factor), high=_four(one.high * factor))


def _four(value: float) -> float:
    return float(f"{value:.4g}")
