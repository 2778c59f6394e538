"""Settings of --launch: what starts the members of a grid, and what each of them is given."""

from dataclasses import dataclass
from typing import Literal

from configs.errors import check_ranges, ranged


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
