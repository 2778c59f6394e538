"""Commands in forked children: started, bounded in time, killed, and what they leave behind.

A child is forked from a process that has imported everything and started no thread, so a command costs what it does
and not what its imports do. Linux only: it reads /proc.
"""

import atexit
import ctypes
import os
import signal
import sys
import threading
import time
import types
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from configs.cli import run_command

Main = Callable[[Sequence[str]], None]
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # of Linux's prctl.h


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A command that has ended. code: its exit code, negative for a signal, None where it had to be killed because it
    was still running at its limit; output: both streams; seconds: how long it ran; peak: bytes of memory over those
    that it had at the start."""

    code: int | None
    output: str
    seconds: float
    peak: int


@dataclass(frozen=True, kw_only=True)
class Child:
    """A command that runs in a process group of its own."""

    pid: int
    log: Path
    begun: float
    rss: int

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Signal the child alone, as `kill` in a shell does."""
        os.kill(self.pid, number)

    def wait(self, limit: float) -> Ended:
        """Wait for the end, at most `limit` seconds; then everything it has started is killed."""
        end, code, peak = time.monotonic() + limit, None, 0
        while code is None and time.monotonic() < end:
            pid, status, usage = os.wait4(self.pid, os.WNOHANG)
            if pid:
                code, peak = os.waitstatus_to_exitcode(status), 1024 * usage.ru_maxrss - self.rss
            else:
                time.sleep(0.005)
        if code is None:
            kill_tree(self.pid)
            os.waitpid(self.pid, 0)
        output = self.log.read_text(errors="replace")
        return Ended(code=code, output=output, seconds=time.monotonic() - self.begun, peak=peak)


def start(
    main: Main,
    argv: Sequence[str],
    *,
    log: Path,
    environment: Mapping[str, str] | None = None,
    before: Callable[[], None] | None = None,
) -> Child:
    """Run a command's `main` in a forked child, as its file would: with run_command around it.

    `before` runs in the child, just before the command: it sets limits.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    begun, rss = time.monotonic(), _memory(os.getpid())
    log.touch()  # the child may be killed before it writes
    pid = os.fork()
    if pid == 0:
        _become(main, argv, log, environment or {}, before)
    return Child(pid=pid, log=log, begun=begun, rss=rss)


def _become(
    main: Main, argv: Sequence[str], log: Path, environment: Mapping[str, str], before: Callable[[], None] | None
) -> NoReturn:
    """Be the command: its output in `log`, its arguments, its exit code, and its way to end."""
    code = 1
    try:
        begin_process()
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        null = os.open(os.devnull, os.O_RDONLY)
        for old, new in ((null, 0), (descriptor, 1), (descriptor, 2)):
            os.dup2(old, new)
        os.close(null)
        os.close(descriptor)
        os.environ.update(environment)
        sys.argv = ["command", *argv]
        # A pool's spawned workers import the main module: not this suite.
        sys.modules["__main__"] = types.ModuleType("__main__")
        if before is not None:
            before()
        run_command(main)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        with suppress(BaseException):  # as the interpreter ends: threads that are not daemons may hold it up
            threading._shutdown()  # type: ignore[attr-defined]
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def begin_process() -> None:
    """Be a group of its own, that ends with the process that forked it, and takes signals as a new process does."""
    os.setpgid(0, 0)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def adopt_orphans() -> None:
    """Make this process the parent of every process below it whose own parent dies, so that none gets away."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def descendants(root: int) -> list[int]:
    """Every living process below `root`, zombies apart."""
    parents = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError, ValueError):
                state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
                parents[int(folder.name)] = (int(parent), state)
    found, fresh = [], [root]
    while fresh:
        fresh = [pid for pid, (parent, _) in parents.items() if parent in fresh]
        found += [pid for pid in fresh if parents[pid][1] != "Z"]
    return found


def left_after(seconds: float) -> list[str]:
    """The command lines of what still runs below this process after that time; returns as soon as nothing does."""
    end = time.monotonic() + seconds
    while descendants(os.getpid()) and time.monotonic() < end:
        time.sleep(0.05)
    return [_words(pid) for pid in descendants(os.getpid())]


def kill_tree(root: int, *, with_root: bool = True) -> None:
    """Kill every process below `root`, also those that are started meanwhile, and `root`."""
    for _ in range(100):
        below = descendants(root)
        if not below:
            break
        for pid in below:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    if with_root:
        with suppress(ProcessLookupError):
            os.kill(root, signal.SIGKILL)


def own_threads() -> list[str]:
    """Names of this process's threads, but for the main one and Arrow's allocator, which survives a fork."""
    names = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
    return [name for name in sorted(names) if not name.startswith("jemalloc")][1:]


def _memory(pid: int) -> int:
    """Resident bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _words(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:120]
    except OSError:
        return f"process {pid}"
