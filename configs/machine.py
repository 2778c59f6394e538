"""What this process may use of the machine."""

import os


def usable_cores() -> int:
    """Cores this process may run on: fewer than the machine's where a scheduler or taskset pins it."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
