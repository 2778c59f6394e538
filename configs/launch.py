"""Settings of --launch: what starts the members of a grid, and what each of them is given; and what Ray needs."""

import importlib
import importlib.util
import re
import socket
from dataclasses import dataclass
from types import ModuleType
from typing import Literal

from configs.errors import UserError, check_ranges, ranged

RAY_PREFIX = re.compile(r"^\[[^\]]*\] \S+: ")
"""What Ray's own lines on stderr begin with."""
_CONNECT_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True)
class LaunchConfig:
    """What starts the members of a grid; docs/cluster.md says which launcher serves whom."""

    by: Literal["none", "ray", "slurm"] = "none"
    """none: this process trains one after the other; ray: each is a task of Ray; slurm: each is an entry of one SLURM
    job array. --launch ray is short for --launch.by ray."""
    gpus: int = ranged(1, low=0, high=1)
    """GPUs of a member: 1, or 0 where there are none."""
    cpus: int = ranged(4, low=1)
    """Cores of a member (1 or more), and its loader's threads unless --loader.threads is given."""
    address: str = ""
    """HOST:PORT of a running Ray cluster; without it, Ray is started on this machine for as long as the grid takes."""
    partition: str = ""
    """Partition of SLURM; without it, SLURM's default."""
    minutes: int = ranged(24 * 60, low=2)
    """Time limit of SLURM for each start of a member (2 or more): it is saved before, and queued again."""
    parallelism: int = ranged(256, low=1)
    """Members that SLURM runs at the same time at most (1 or more)."""

    def __post_init__(self) -> None:
        check_ranges(self, "launch.")


def required(package: str, extra: str) -> ModuleType:
    """The package of an extra. Raises UserError, with the command that installs it, where it is missing."""
    if importlib.util.find_spec(package) is None:
        raise UserError(f"--launch {extra} needs the package {package}: pip install '.[{extra}]'")
    return importlib.import_module(package)


def require_answer(address: str) -> None:
    """Raise UserError if nobody listens at HOST:PORT: Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise UserError(f"--launch.address {address}: give HOST:PORT, as ray start --head says")
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"Ray does not answer at {address} ({reason}): ray start --head there") from error
