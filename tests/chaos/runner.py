"""Which faults are tried when: two cases at a time, each in a process of its own, until the time is over."""

import json
import os
import random
import shutil
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path

from tests.chaos.case import Case, Kind, Seen
from tests.chaos.children import adopt_orphans, begin_process, kill_tree, left_after
from tests.chaos.world import World, pin

JOBS = 2
GRACE = 10.0
"""Seconds after which nothing that a case has started may run any more."""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """A case to try: the number-th one of a kind of a group; seeded by these and the suite's seed."""

    group: str
    kind: Kind
    number: int
    seed: int

    @property
    def name(self) -> str:
        """What `--only` takes to try this case again."""
        return f"{self.group}:{self.kind.injected}:{self.number}"


@dataclass(frozen=True, kw_only=True)
class Tried:
    """An attempt that has ended."""

    attempt: Attempt
    seen: Seen
    seconds: float


def attempts(groups: dict[str, Sequence[Kind]], seed: int) -> Iterator[Attempt]:
    """Every kind once, the groups in turn; then all of them again, but for those that have nothing random."""
    rng, number = random.Random(seed), 0
    kinds = {group: list(found) for group, found in groups.items()}
    while any(kinds.values()):
        for found in kinds.values():
            rng.shuffle(found)
        for together in zip_longest(*([(group, kind) for kind in found] for group, found in kinds.items())):
            for group, kind in filter(None, together):
                yield Attempt(group=group, kind=kind, number=number, seed=seed)
        kinds = {group: [kind for kind in found if not kind.once] for group, found in kinds.items()}
        number += 1


def run(
    todo: Iterator[Attempt], world: World, root: Path, *, least: int, end: float, tell: Callable[[Tried], None]
) -> list[Tried]:
    """Try one attempt after the other until `end` (of time.monotonic), but `least` of them, two at a time.

    Those under way at the end are finished.
    """
    running: dict[int, tuple[Attempt, float, Path, int]] = {}
    tried: list[Tried] = []
    free, count = list(range(JOBS)), 0
    try:
        while True:
            while free and (count < least or time.monotonic() < end) and (attempt := next(todo, None)) is not None:
                count, slot = count + 1, free.pop()
                place = root / f"case{count}"
                place.mkdir()
                running[_fork(attempt, world, place, slot)] = (attempt, time.monotonic(), place, slot)
            if not running:
                return tried
            for pid, (attempt, begun, place, slot) in list(running.items()):
                seconds = time.monotonic() - begun
                late = seconds > 8 * world.patience
                if late:
                    kill_tree(pid)
                if not late and not os.waitpid(pid, os.WNOHANG)[0]:
                    continue
                if late:
                    os.waitpid(pid, 0)
                del running[pid]
                free.append(slot)
                tried.append(Tried(attempt=attempt, seen=_seen(place, late), seconds=seconds))
                tell(tried[-1])
                shutil.rmtree(place, ignore_errors=True)
            time.sleep(0.01)
    finally:
        for pid in running:
            kill_tree(pid)


def _fork(attempt: Attempt, world: World, place: Path, slot: int) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        begin_process()
        adopt_orphans()
        pin(slot)
        seen = _try(attempt, world, place)
        (place / "seen.json").write_text(json.dumps(asdict(seen)))
    finally:
        os._exit(0)


def _try(attempt: Attempt, world: World, place: Path) -> Seen:
    """The outcome of a case; also what it leaves running."""
    rng = random.Random(f"{attempt.seed} {attempt.name}")
    try:
        seen = attempt.kind.attempt(Case(world=world, place=place, rng=rng))
    except BaseException:
        kill_tree(os.getpid(), with_root=False)
        return Seen(verdict="broken", words="the suite failed", detail=traceback.format_exc()[-2500:])
    left = left_after(GRACE)
    kill_tree(os.getpid(), with_root=False)
    if left and seen.verdict == "ok":
        return Seen(verdict="left", words="processes left after 10 s", detail="; ".join(left), tries=seen.tries)
    return seen


def _seen(place: Path, late: bool) -> Seen:
    if late:
        return Seen(verdict="hang", words="hung", detail="the case did not end in time")
    try:
        return Seen(**json.loads((place / "seen.json").read_text()))
    except (OSError, ValueError) as error:
        return Seen(verdict="broken", words="the suite failed", detail=repr(error))
