"""A pure function over many tasks on several processes, with the results in the order of the tasks."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import Self, TypeVar

import cv2
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from configs.errors import UserError
from configs.machine import usable_cores

Work = TypeVar("Work")
Result = TypeVar("Result")


class WorkerDiedError(UserError):
    """A worker process was killed."""

    def __init__(self, during: str = "") -> None:
        remedy = "most likely because memory ran out: run again with fewer --workers"
        super().__init__(f"a worker process was killed{during}, {remedy}")


class Workers:
    """A pool of `count` processes, ended with the context; 0 means one per core, 1 the calling process itself."""

    def __init__(self, count: int) -> None:
        self.count = count or usable_cores()
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        if self.count > 1:
            self._pool = _processes(self.count)
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def in_order(self, function: Callable[[Work], Result], tasks: Iterable[Work]) -> Iterator[Result]:
        """`function` of each task, in the order of the tasks.

        At most two tasks per process are submitted ahead, so neither tasks nor results pile up. Raises
        WorkerDiedError where one was killed; new workers then wait for the next call.
        """
        if self._pool is None:
            yield from map(function, tasks)
            return
        ahead: deque[Future[Result]] = deque()
        try:
            for task in tasks:
                ahead.append(self._pool.submit(function, task))
                if len(ahead) > 2 * self.count:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        except BrokenProcessPool as error:
            self._pool = _processes(self.count)
            raise WorkerDiedError from error


def killed_by(function: Callable[[Work], object], task: Work) -> bool:
    """Whether a process of its own is killed by `function` of `task`."""
    with _processes(1) as pool:
        try:
            pool.submit(function, task).result()
        except BrokenProcessPool:
            return True
    return False


def with_progress(
    results: Iterable[Result], title: str, total: int, images: Callable[[Result], int]
) -> Iterator[Result]:
    """Pass `results` on; on a terminal a bar shows images done of `total`, images/s and the time left."""
    text, speed = TextColumn("{task.description}"), _ImagesPerSecond()
    columns = (text, BarColumn(), MofNCompleteColumn(), speed, TimeRemainingColumn())
    with Progress(*columns, disable=not Console().is_terminal) as progress:
        bar = progress.add_task(title, total=total)
        for result in results:
            progress.advance(bar, images(result))
            yield result


def _processes(count: int) -> ProcessPoolExecutor:
    spawn = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(count, mp_context=spawn, initializer=_begin_worker)


class _ImagesPerSecond(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f} images/s")


def _begin_worker() -> None:
    cv2.setNumThreads(1)  # there is one process per core already
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which lets running tasks end
    parent = multiprocessing.parent_process()
    if parent is not None:  # a parent that was killed cannot stop its workers
        threading.Thread(target=_exit_with, args=(parent.sentinel,), daemon=True).start()


def _exit_with(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)
