"""Few descriptors, little memory, few processes."""

import resource
from dataclasses import replace
from functools import partial
from pathlib import Path

from tests.chaos.case import SAME, Case, Kind, Seen, judged
from tests.chaos.digests import page_digest
from tests.chaos.groups.disks import WRITERS
from tests.chaos.world import prep_words


def _descriptors(command: str, hard: bool, case: Case) -> Seen:
    """At most so many open files; with `hard`, no command can raise that."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    count = case.rng.randint(24, 64) if hard else 64
    limit = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (count, count if hard else most))  # noqa: E731
    writer, out, many = WRITERS[command], case.place / "disk", case.place / "many"
    out.mkdir()
    if command != "prep":  # the same samples, each in a tar of its own
        made = case.run("prep", *prep_words(case.world.downloads, many, "--samples-per-shard", "1"))
        assert made.code == 0, made.output
        case = replace(case, world=replace(case.world, shards=many))
    same = lambda: writer.same(case, out)  # noqa: E731
    if command == "report":  # which tells of the shards, too
        free = case.place / "free"
        case.run(command, *writer.words(case, free))
        same = lambda: page_digest(out / "report") == page_digest(free / "report")  # noqa: E731
    ended = case.run(command, *writer.words(case, out), before=limit)
    return judged(ended, f"{command} with {count} open files", same=same)


def _memory(command: str, case: Case) -> Seen:
    """So many MB of memory over what a started process has (ulimit -d)."""
    size = case.rng.randint(5, 200) * 10**6
    writer, out = WRITERS[command], case.place / "disk"
    out.mkdir()
    ended = case.run(command, *writer.words(case, out), before=lambda: _limit_memory(size))
    return judged(ended, f"{command} with {size / 1e6:.0f} MB more", same=lambda: writer.same(case, out))


def _limit_memory(size: int) -> None:
    """Let private memory grow by `size` bytes at most. A limit on addresses would count torch's libraries."""
    lines = Path("/proc/self/status").read_text().splitlines()
    used = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData:"))
    resource.setrlimit(resource.RLIMIT_DATA, (used + size, used + size))


_EXPECTED = f"refused in one line, or {SAME}"
KINDS = [
    *(
        Kind(
            injected=f"{name} with 64 open files",
            expected=SAME,
            attempt=partial(_descriptors, name, False),
            quick=name != "report",
            once=True,
        )
        for name in WRITERS
    ),
    *(
        Kind(
            injected=f"{name} with 24 to 64 open files, not to be raised",
            expected=_EXPECTED,
            attempt=partial(_descriptors, name, True),
            quick=name != "report",
        )
        for name in WRITERS
    ),
    *(
        Kind(injected=f"{name} with little memory", expected=_EXPECTED, attempt=partial(_memory, name))
        for name in WRITERS
    ),
]
