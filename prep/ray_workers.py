"""--launch ray: the tasks of prep/pool.py on the nodes of a Ray cluster, which share the folders that are read and
written.

A task is pure: its files take their names when they are whole, so it may be given out again, and both may finish. It is
when its node or process died, or its time has passed; and a result that is lost is read from the task's own files. (Cut
a link, and Ray may never deliver results whose files were written: its issue 63405.)
"""

import logging
import os
import secrets
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Generic, Self

import cv2

from configs.errors import UserError, note
from configs.launch import RAY_PREFIX, require_answer, required
from configs.prep import PrepLaunchConfig
from prep.pack import finished_shard, pack_shard
from prep.pool import Result, Work, WorkerDiedError, Workers
from prep.stage import StageTask, libraries, made_chunk, stage_chunk

_STARTS = 5  # of a task, before the run ends; those whose node died do not count
_CRASHES = 3  # of a task whose process is killed, before its images are suspected
_TICK_SECONDS, _RESULT_SECONDS, _CANCEL_SECONDS = 0.5, 10.0, 5.0
_FOUND: dict[Any, Callable[[Any], Any]] = {stage_chunk: made_chunk, pack_shard: finished_shard}


@dataclass(frozen=True, kw_only=True)
class _Shared:
    """What every node must have as this machine has it: a file with a token, and the versions of libraries."""

    marker: str
    token: str
    libraries: dict[str, Any]


@dataclass(kw_only=True)
class _Given(Generic[Work, Result]):
    """A task that was given out, with Ray's reference to each time it was, and when the last one's time has passed."""

    task: Work
    references: list[Any] = field(default_factory=list)
    starts: int = 0
    crashes: int = 0
    due: float = 0.0
    result: Result | None = None


class RayWorkers(Workers):
    """The cores of a Ray cluster. `folder` is where the set is built, which all nodes must see."""

    def __init__(self, launch: PrepLaunchConfig, folder: Path) -> None:
        super().__init__(2)  # more than the calling process
        self._ray: Any = required("ray", "ray")
        self._launch = launch
        self._shared = _Shared(marker=str(folder / "launch.tmp"), token=secrets.token_hex(8), libraries=libraries())
        self._task: Any = None
        self._cancelled: list[Any] = []

    def __enter__(self) -> Self:
        address = self._launch.address
        if address:
            require_answer(address)
        said: list[str] = []
        try:
            with _stderr(said):
                self._ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, RuntimeError, ValueError) as error:
            reason = RAY_PREFIX.sub("", said[-1]) if said else " ".join(str(error).split())
            raise UserError(f"Ray at {address or 'this machine'}: {reason}") from error
        self._task = self._ray.remote(num_cpus=1, max_retries=0)(_run)
        Path(self._shared.marker).write_text(self._shared.token)
        return self

    def __exit__(self, *_: object) -> None:
        Path(self._shared.marker).unlink(missing_ok=True)  # so a task that begins late writes nothing
        self._ray.wait(self._cancelled, num_returns=len(self._cancelled), timeout=_CANCEL_SECONDS)
        self._ray.shutdown()

    def in_order(self, function: Callable[[Work], Result], tasks: Iterable[Work]) -> Iterator[Result]:
        """`function` of each task, in the order of the tasks; no more are given out than the nodes have cores.

        Raises WorkerDiedError where a task's process was killed several times, and what `function` raises.
        """
        waiting = enumerate(tasks)
        following = 0
        given: dict[int, _Given[Work, Result]] = {}
        done: dict[int, Result] = {}
        try:
            while True:
                for number, task in islice(waiting, max(0, self._cores() - len(given))):
                    given[number] = _Given(task=task)
                    self._give_out(function, given[number])
                if not given:
                    return
                open_ones = {reference: one for one in given.values() for reference in one.references}
                for reference in self._ray.wait(list(open_ones), timeout=_TICK_SECONDS)[0]:
                    self._settle(reference, open_ones[reference])
                for one in given.values():
                    late = time.monotonic() > one.due
                    if one.result is None and (late or not one.references):
                        if late:
                            note(f"no result came within {self._launch.task_timeout:g} s: it is given out again")
                        one.result = _FOUND[function](one.task)
                        if one.result is None:
                            self._give_out(function, one)
                for number in [number for number, one in given.items() if one.result is not None]:
                    done[number] = self._close(given.pop(number)).result  # type: ignore[assignment]
                while following in done:
                    yield done.pop(following)
                    following += 1
        finally:
            for one in given.values():
                self._close(one)

    def _cores(self) -> int:
        """Cores of the nodes that are alive; one where there are none, so that a task waits for the next node."""
        return max(1, int(self._ray.cluster_resources().get("CPU", 0)))

    def _give_out(self, function: Callable[[Work], Result], one: _Given[Work, Result]) -> None:
        if one.starts == _STARTS:
            raise UserError(
                f"Ray has given out a task {_STARTS} times, and got no result: raise --launch.task-timeout "
                f"({self._launch.task_timeout:g} s) or look at the nodes (ray status); what was done is kept"
            )
        one.starts += 1
        one.due = time.monotonic() + self._launch.task_timeout
        one.references.append(self._task.remote(function, one.task, self._shared))

    def _settle(self, reference: Any, one: _Given[Work, Result]) -> None:
        """Take the result of a task that has ended, if it can be had."""
        errors = self._ray.exceptions
        one.references.remove(reference)
        try:
            one.result = self._ray.get(reference, timeout=_RESULT_SECONDS)
        except errors.RayTaskError as error:
            if isinstance(error.cause, errors.RayError):  # it could not begin
                reason = str(error.cause).splitlines()[0]
                raise UserError(
                    f"a node of Ray: {reason}: start the command in the repository's folder, which all nodes must have "
                    "at that path, and the packages too"
                ) from error
            raise error.cause from None
        except (errors.WorkerCrashedError, errors.OutOfMemoryError) as error:
            one.crashes += 1
            if one.crashes == _CRASHES:
                raise WorkerDiedError from error
            note("a process of Ray was killed: its work is given out again")
        except errors.RayError:  # its node died, or its result is lost
            note("a node of Ray was lost: its work is given out again")
            one.starts -= 1

    def _close(self, one: _Given[Work, Result]) -> _Given[Work, Result]:
        """Stop what still works on a task."""
        for reference in one.references:
            self._ray.cancel(reference, force=True)
        self._cancelled += one.references
        return one


def _run(function: Callable[[Work], Result], task: Work, shared: _Shared) -> Result:
    """The task, on any node. Raises UserError where the node is not as the driver's machine."""
    here, marker = socket.gethostname(), Path(shared.marker)
    if not marker.is_file() or marker.read_text() != shared.token:
        raise UserError(f"{here} does not see {marker.parent}: --out must lie in a folder that all nodes share")
    if libraries() != shared.libraries:
        raise UserError(f"{here} has {libraries()}, not {shared.libraries}: install the same versions on all nodes")
    if isinstance(task, StageTask) and not Path(task.files[0][0]).exists():
        raise UserError(f"{here} does not see {task.files[0][0]}: all nodes must share the folders of the images")
    cv2.setNumThreads(1)  # a task has one core
    return function(task)


@contextmanager
def _stderr(said: list[str]) -> Iterator[None]:
    """Add what the block writes to stderr to the lines `said`: of an error, Ray's own tell more than Python's."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            said += file.read().decode(errors="replace").splitlines()
