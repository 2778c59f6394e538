"""Where the time went: the wait for each batch, the loader's stages, the GPU's idle time, and one line about it."""

import threading
import time
from array import array
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from loaders.verdict import Feed, verdict

Item = TypeVar("Item")
STAGES = ("read", "decode", "augment", "copy")


@dataclass(frozen=True, kw_only=True)
class Span:
    """Time that one thread spent in one stage: `begin` by time.perf_counter, in seconds."""

    stage: str
    thread: int
    name: str
    begin: float
    seconds: float


class StageClock:
    """Seconds of each stage of a loader, added up over its threads, and how many batches were ready.

    read: bytes and their checksum; decode: JPEG to pixels (for DALI: the wait for its threads or the GPU); augment:
    everything done to the pixels; copy: gathering kept pixels, and handing a batch to the device. Safe to use from
    many threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self.images = 0
        self.ready = 0
        self.asked = 0
        self._spans: list[Span] | None = None

    def record(self) -> list[Span]:
        """From now on also keep where and when time was spent, for a trace; returns the list that grows.

        A task goes through its stages sample by sample; its spans show their sums, one after the other.
        """
        self._spans = []
        return self._spans

    def add(self, **seconds: float) -> None:
        """Add the time that this thread has just spent in the named stages."""
        with self._lock:
            for stage, spent in seconds.items():
                self.seconds[stage] += spent
            if self._spans is not None:
                self._spans += _spans_until_now(seconds)

    def batch(self, images: int, ready: int) -> None:
        """Count a batch of so many images that was handed over when `ready` batches, itself included, were made."""
        self.images += images
        self.ready += ready
        self.asked += 1

    def copy(self) -> "StageClock":
        """The counts of this moment, to be subtracted later."""
        other = StageClock()
        other.images, other.ready, other.asked = self.images, self.ready, self.asked
        other.seconds = dict(self.seconds)
        return other

    def since(self, earlier: "StageClock") -> "StageClock":
        """What was counted after `earlier`, a copy of this clock."""
        other = self.copy()
        other.images -= earlier.images
        other.ready -= earlier.ready
        other.asked -= earlier.asked
        other.seconds = {stage: seconds - earlier.seconds[stage] for stage, seconds in self.seconds.items()}
        return other


def _spans_until_now(seconds: dict[str, float]) -> Iterator[Span]:
    thread, begin = threading.current_thread(), time.perf_counter() - sum(seconds.values())
    for stage, spent in seconds.items():
        yield Span(stage=stage, thread=thread.native_id or 0, name=thread.name, begin=begin, seconds=spent)
        begin += spent


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """How a stretch of steps was fed.

    waiting: share of the time that went into waiting for batches, 0 to 1; wait_ms: (p50, p95, p99) of one step's wait,
    in milliseconds; stage_us: microseconds per image in its threads, by stage; ready: mean number of batches that were
    ready when one was asked for; gpu_idle: share of the time that the GPU had nothing to do between two steps, None
    without a GPU.
    """

    steps: int
    waiting: float
    wait_ms: tuple[float, float, float]
    stage_us: dict[str, float]
    ready: float
    gpu_idle: float | None

    def figures(self) -> dict[str, float]:
        """The report as flat numbers, for records."""
        figures = {"waiting": self.waiting, "batches_ready": self.ready}
        figures |= {f"wait_ms_p{rank}": value for rank, value in zip((50, 95, 99), self.wait_ms, strict=True)}
        figures |= {f"{stage}_us": value for stage, value in self.stage_us.items()}
        return figures if self.gpu_idle is None else {**figures, "gpu_idle": self.gpu_idle}

    def verdict(self, *, placement: str, cache: str, on_gpu: bool) -> str:
        """What bounds this run and what to change, in one line; on a GPU its idle time counts, not the host's wait."""
        figures = f"{self.waiting:.0%} of the time went into waiting for it (p95 {self.wait_ms[1]:.1f} ms a step)"
        if self.gpu_idle is not None:
            figures += f", the GPU idled {self.gpu_idle:.0%}"
        lost = self.gpu_idle or 0.0 if on_gpu else self.waiting
        feed = Feed(kept=1 - lost, stage_us=self.stage_us, placement=placement, cache=cache, on_gpu=on_gpu)
        return verdict(feed, figures)


class WaitMeter:
    """Times the wait for each item of `over`; costs a few clock readings a step, and on a GPU two events."""

    def __init__(self, device: torch.device | None = None) -> None:
        self._waits = array("d")
        self._start = self._end = 0.0
        self._idle = GpuIdle() if device is not None and device.type == "cuda" else None

    def over(self, items: Iterable[Item]) -> Iterator[Item]:
        """`items` as they are, timed."""
        iterator = iter(items)
        self._start = self._end = time.perf_counter()
        while True:
            asked = time.perf_counter()
            try:
                item = next(iterator)
            except StopIteration:
                return
            finally:
                self._end = time.perf_counter()
            self._waits.append(self._end - asked)
            if self._idle is not None:
                self._idle.step_begins()
            yield item
            if self._idle is not None:
                self._idle.step_ends()
            self._end = time.perf_counter()

    @property
    def waiting(self) -> float:
        """Share of the time so far that went into waiting, 0 to 1."""
        total = self._end - self._start
        return sum(self._waits) / total if total else 0.0

    def report(self, stages: StageClock) -> LoadReport:
        """What was seen so far, beside the stages of the loader over the same steps."""
        p50, p95, p99 = np.percentile(np.frombuffer(self._waits), (50, 95, 99)) * 1e3 if self._waits else (0.0,) * 3
        return LoadReport(
            steps=len(self._waits),
            waiting=self.waiting,
            wait_ms=(float(p50), float(p95), float(p99)),
            stage_us={stage: seconds / max(1, stages.images) * 1e6 for stage, seconds in stages.seconds.items()},
            ready=stages.ready / max(1, stages.asked),
            gpu_idle=self._idle.share() if self._idle is not None else None,
        )


class GpuIdle:
    """The time between the end of a step's work on the GPU and the beginning of the next one's, by CUDA events.

    While the host runs ahead, the GPU goes from one to the other at once; where it had to wait for the host, or for
    a copy of the batch, the time between the two events is the time it did not train.
    """

    def __init__(self) -> None:
        self._first: torch.cuda.Event | None = None
        self._last: torch.cuda.Event | None = None
        self._gaps: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()
        self._idle_ms = 0.0

    def step_begins(self) -> None:
        """Mark the moment after a batch has come and before its step is queued."""
        event = self._event()
        if self._first is None:
            self._first = event
        if self._last is not None:
            self._gaps.append((self._last, event))
        while self._gaps and self._gaps[0][1].query():  # type: ignore[no-untyped-call]
            self._add()

    def step_ends(self) -> None:
        """Mark the moment after a step was queued."""
        self._last = self._event()

    def share(self) -> float:
        """Share of the time from the first step's beginning to the last one's end; waits for the GPU."""
        if self._first is None or self._last is None:
            return 0.0
        self._last.synchronize()
        while self._gaps:
            self._add()
        total: float = self._first.elapsed_time(self._last)
        return self._idle_ms / total if total else 0.0

    def _add(self) -> None:
        ended, began = self._gaps.popleft()
        self._idle_ms += ended.elapsed_time(began)

    @staticmethod
    def _event() -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event
