"""What our own bookkeeping costs a step: order, parameters, meter."""

import statistics
import time
from collections.abc import Callable

import torch

from configs.schema import AugmentConfig
from loaders.augment import draw_params
from loaders.meter import STAGES, StageClock, WaitMeter
from loaders.order import permutation

_SAMPLES = 1_000_000
_TOGETHER = 2048  # samples whose parameters loaders/stream.py draws at once


def costs(batch_size: int, device: torch.device) -> dict[str, float]:
    """Microseconds a step: order_us and params_us of an epoch of 1,000,000 samples, meter_us."""
    orders = [_seconds(lambda: permutation(_SAMPLES, 0, 0)) for _ in range(3)]
    index = permutation(_SAMPLES, 0, 0)[:_TOGETHER]
    draws = [_seconds(lambda: draw_params(AugmentConfig(), seed=0, epoch=0, index=index, size=256)) for _ in range(50)]
    return {
        "order_us": round(statistics.median(orders) / _SAMPLES * batch_size * 1e6, 1),
        "params_us": round(statistics.median(draws) / _TOGETHER * batch_size * 1e6, 1),
        "meter_us": round(_metering(batch_size, device) * 1e6, 1),
    }


def _metering(batch_size: int, device: torch.device) -> float:
    """Seconds a step of the meter's clock readings, and of what the stages of a batch add."""
    steps, clock, tasks = 5_000, StageClock(), 4

    def metered() -> None:
        for _ in WaitMeter(device).over(range(steps)):
            clock.batch(batch_size, 2)
            for _ in range(tasks):
                clock.add(**dict.fromkeys(STAGES, 0.0))
            for _ in range(3 * batch_size):
                time.perf_counter()

    return _seconds(metered) / steps


def _seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin
