"""Ctrl-C, SIGTERM and the time to save: the ranks agree after which step, so that all of them stop or save together."""

import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from types import FrameType, TracebackType
from typing import Any, Self, TypeVar

import torch
import torch.distributed as dist

from engine.distributed import Ranks

Item = TypeVar("Item")
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_REPEAT_SECONDS = 1.0  # a repeated signal within this time is the same request


class Stopped(Exception):  # noqa: N818  not an error
    """The user or the machine asked the run to stop; raised on every rank after the same step."""


class StopRequest:
    """Listens for SIGINT and SIGTERM while it is entered; another one, more than a second later, ends the process.

    In another thread than the main one, where Python allows no handlers, it does not listen: the program that started
    the thread decides what a signal does.

    The ranks exchange one small message per step in the background and read it a step later, so nothing waits for it
    and all of them stop after the same step. The message also says that the first rank finds it time to save:
    `save_minutes` after the last save (0: never).
    """

    def __init__(self, ranks: Ranks, save_minutes: float = 0.0) -> None:
        self._ranks = ranks
        self._save_seconds = 60 * save_minutes
        self.saved()
        self._signal, self._signal_time = 0, 0.0
        self._previous_handlers: dict[int, Any] = {}
        self._sent: tuple[Any, torch.Tensor] | None = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._previous_handlers = {number: signal.signal(number, self._on_signal) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore_handlers()

    @property
    def name(self) -> str:
        """What asked the run to stop: SIGINT, SIGTERM, or another rank's signal."""
        return signal.Signals(self._signal).name if self._signal else "another rank's signal"

    def over(self, items: Iterable[Item]) -> Iterator[Item]:
        """`items`, until the run is asked to stop: then Stopped is raised instead of the next one, or at the end."""
        for item in items:
            yield item
            if self._agreed():
                raise Stopped
        self.check()

    def check(self) -> None:
        """Raise Stopped on every rank if one of them was asked to stop; every rank must call it."""
        if self._agreed(last=True):
            raise Stopped

    def saved(self) -> None:
        """Count the time to the next save from now; every rank must call it."""
        self.time_to_save, self._asked, self._saved_time = False, False, time.monotonic()

    def _agreed(self, *, last: bool = False) -> bool:
        if self._ranks.world_size == 1:
            self.time_to_save = self._is_time()
            return bool(self._signal)
        if self._received():
            return True
        ask = self._ranks.first and not self._asked and self._is_time()  # once, until it is saved
        self._asked |= ask
        flags = torch.tensor([self._signal, int(ask)])
        self._sent = (dist.all_reduce(flags, op=dist.ReduceOp.MAX, group=self._ranks.host_group, async_op=True), flags)
        return self._received() if last else False

    def _is_time(self) -> bool:
        return 0 < self._save_seconds < time.monotonic() - self._saved_time

    def _received(self) -> bool:
        """Whether a rank reported a signal in the last exchange, which is completed if it is still pending."""
        if self._sent is None:
            return False
        work, flags = self._sent
        self._sent = None
        work.wait()
        self.time_to_save |= bool(flags[1])
        return bool(flags[0])

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        # A terminal and torchrun may both forward the same Ctrl-C: that is one request.
        if self._signal and now - self._signal_time > _REPEAT_SECONDS:
            self._restore_handlers()
            os.kill(os.getpid(), number)
        elif not self._signal:
            self._signal, self._signal_time = number, now

    def _restore_handlers(self) -> None:
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)
