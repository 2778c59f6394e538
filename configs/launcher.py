"""What a launcher (torchrun, or --launch) says in the environment of each process that it starts, and how these end
with it."""

import ctypes
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass

from configs.errors import UserError

_NEEDED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
LAUNCHED = "LAUNCHED_MEMBER"  # in the environment of what --launch starts: the process that started it
STOPPED = 75  # EX_TEMPFAIL: the exit code of a launched member that was stopped with work left, to be queued again
_PR_SET_PDEATHSIG = 1  # from Linux's prctl.h
_WATCH_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class Launch:
    """This process among those of one launcher."""

    rank: int
    """Its number, from 0, over all machines."""
    world_size: int
    """How many there are."""
    local_rank: int
    """Its number on this machine."""
    local_world_size: int
    """How many there are on this machine."""


def read_launch() -> Launch:
    """What the environment says; a variable that is empty is not set. A process of its own if nothing is set.

    Raises UserError if a variable is no number or out of range, or if only some of them are set.
    """
    given = {name: os.environ.get(name, "").strip() for name in (*_NEEDED, "LOCAL_WORLD_SIZE")}
    numbers = {name: _number(name, given[name]) for name in given if given[name] and name != "MASTER_ADDR"}
    rank, local_rank, world_size = (numbers.get(*pair) for pair in (("RANK", 0), ("LOCAL_RANK", 0), ("WORLD_SIZE", 1)))
    if (rank, local_rank, world_size) == (0, 0, 1):
        return Launch(rank=0, world_size=1, local_rank=0, local_world_size=1)
    missing = [name for name in _NEEDED if not given[name]]
    if missing:
        there = " ".join(f"{name}={given[name]}" for name in _NEEDED[:3] if given[name])
        raise UserError(
            f"the environment has {there}, but not {', '.join(missing)}: start several ranks with torchrun "
            "--nproc-per-node N, or unset these variables for a single process"
        )
    if rank >= world_size:
        raise UserError(f"RANK={rank} is out of range, WORLD_SIZE is {world_size}: start the ranks with torchrun")
    here = numbers.get("LOCAL_WORLD_SIZE", 1)
    return Launch(rank=rank, world_size=world_size, local_rank=local_rank, local_world_size=max(1, here))


def _number(name: str, value: str) -> int:
    if not (value.isascii() and value.isdecimal()):
        raise UserError(f"the environment has {name}={value!r}, which is no number: start with torchrun, or unset it")
    return int(value)


def is_launched() -> bool:
    """Whether this process trains a member for --launch, which starts it again if it is stopped."""
    return bool(os.environ.get(LAUNCHED))


def stop_when_told() -> None:
    """Make SIGTERM end a launched process with STOPPED, wherever it is; a run in progress handles the signal itself."""
    if is_launched():
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(STOPPED))


def end_with_launcher() -> None:
    """Make this process end with the launcher that started it, even if that is killed: one that outlives it would
    write beside those of the next run. Without a launcher nothing changes."""
    if not (os.environ.get("TORCHELASTIC_RUN_ID") or is_launched()):
        return
    parent = int(os.environ.get(LAUNCHED) or os.getppid())
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before the kernel knew
            os._exit(1)
    else:
        threading.Thread(target=_exit_after, args=(parent,), daemon=True).start()


def _exit_after(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_WATCH_SECONDS)
    os._exit(1)
