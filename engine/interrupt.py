"""Ctrl-C and SIGTERM: the step is finished, the same one on every rank, and the run can be saved."""

import os
import signal
import time
from collections.abc import Iterable, Iterator
from types import FrameType, TracebackType
from typing import Any, Self, TypeVar

import torch
import torch.distributed as dist

from engine.distributed import Ranks

Item = TypeVar("Item")
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_AGAIN = 1.0  # seconds


class Stopped(Exception):  # noqa: N818  what happened is no error
    """The user or the machine asked the run to end; raised on every rank after the same step."""


class StopRequest:
    """Listens for SIGINT and SIGTERM while it is entered; another one, later than a second, ends the process.

    The ranks tell each other in the background, one small message a step, read a step later: nothing waits for it, and
    all of them stop after the same step.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._asked, self._asked_at = 0, 0.0
        self._before: dict[int, Any] = {}
        self._sent: tuple[Any, torch.Tensor] | None = None

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._take) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._give_back()

    @property
    def name(self) -> str:
        """What asked: SIGINT, SIGTERM, or another rank."""
        return signal.Signals(self._asked).name if self._asked else "another rank's signal"

    def over(self, items: Iterable[Item]) -> Iterator[Item]:
        """`items`, until a stop is asked for: then Stopped is raised in place of the next one, or at the end."""
        for item in items:
            yield item
            if self._agreed():
                raise Stopped
        self.check()

    def check(self) -> None:
        """Raise Stopped on every rank where one of them was asked; every rank must call it."""
        if self._agreed(last=True):
            raise Stopped

    def _agreed(self, *, last: bool = False) -> bool:
        if self._ranks.world_size == 1:
            return bool(self._asked)
        heard = self._received()
        if heard:
            return True
        flag = torch.tensor([self._asked])
        self._sent = (dist.all_reduce(flag, op=dist.ReduceOp.MAX, group=self._ranks.host_group, async_op=True), flag)
        return self._received() if last else False

    def _received(self) -> bool:
        """What the ranks said a step ago; nothing is left on its way."""
        if self._sent is None:
            return False
        work, flag = self._sent
        self._sent = None
        work.wait()
        return bool(flag.item())

    def _take(self, number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        # A terminal and torchrun may both pass the same Ctrl-C on: that is one request.
        if self._asked and now - self._asked_at > _AGAIN:
            self._give_back()
            os.kill(os.getpid(), number)
        elif not self._asked:
            self._asked, self._asked_at = number, now

    def _give_back(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
