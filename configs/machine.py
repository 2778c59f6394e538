"""The resources that this process may use: cores, open files, memory."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

MAX_MEGAPIXELS = 100.0
"""Millions of pixels that an image may have unless an option says otherwise: four times the largest original of ISIC
(6000 x 4000), and 300 MB when decoded. The libraries alone would accept 179 million (Pillow) or four billion
(libjpeg-turbo), for a file of a few bytes."""


def usable_cores() -> int:
    """Cores this process may run on: fewer than the machine has if a scheduler or taskset pins it."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def allow_more_files() -> bool:
    """Raise this process's limit on open files to the hard limit; False if that changes nothing."""
    if sys.platform == "win32":
        return False
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return False
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return True


def available_memory(root: Path = Path("/")) -> int:
    """Bytes that this process may still allocate: what the kernel can free, or less if a control group limits it.

    `root` is the folder that holds proc and sys.
    """
    found = [sys.maxsize]
    meminfo = root / "proc/meminfo"
    if meminfo.is_file():
        found.append(_fields(meminfo, ":")["MemAvailable"] * 1024)
    elif hasattr(os, "sysconf"):  # macOS: all of the machine's memory
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return min([*found, *_left_by_groups(root)])


def _left_by_groups(root: Path) -> Iterator[int]:
    """Bytes left under the limit of each control group that this process is in, and of each group above it."""
    own = root / "proc/self/cgroup"
    for line in own.read_text().splitlines() if own.is_file() else ():
        _, controllers, path = line.split(":", 2)
        if controllers == "memory":  # version 1
            top, limit, used, prefix = root / "sys/fs/cgroup/memory", "limit_in_bytes", "usage_in_bytes", "memory."
            cache, kept = "total_cache", "total_shmem"
        elif not controllers:  # version 2
            top, limit, used, prefix = root / "sys/fs/cgroup", "max", "current", "memory."
            cache, kept = "file", "shmem"
        else:
            continue
        place = top / path.lstrip("/")
        for folder in (place, *place.parents):
            if not folder.is_relative_to(top):
                break
            files = [folder / (prefix + name) for name in (limit, used, "stat")]
            if all(file.is_file() for file in files) and files[0].read_text().strip() != "max":
                most, now = (int(file.read_text()) for file in files[:2])
                stat = _fields(files[2], " ")
                freeable = stat.get(cache, 0) - stat.get(kept, 0)  # the page cache, except for /dev/shm
                yield max(0, most - now + max(0, freeable))


def _fields(file: Path, separator: str) -> dict[str, int]:
    pairs = (line.split(separator, 1) for line in file.read_text().splitlines())
    return {name: int(value.split()[0]) for name, value in pairs}
