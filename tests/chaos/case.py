"""What a fault is, what is seen after it, and what a group of faults may use."""

import random
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import infer
import prep.merge
import prep.shard
import prep.verify
import train
from tests.chaos.children import Child, Ended, Main, start
from tests.chaos.world import World

Verdict = Literal["ok", "silent", "hang", "traceback", "loss", "left", "skipped", "broken"]
BAD = ("silent", "hang", "traceback", "loss", "left", "broken")
COMMANDS: dict[str, Main] = {
    "prep": prep.shard.main,
    "merge": prep.merge.main,
    "verify": prep.verify.main,
    "train": train.main,
    "infer": infer.main,
}


@dataclass(frozen=True, kw_only=True)
class Seen:
    """The outcome of a case.

    verdict: ok; silent, it ended well with another result and no word of it; hang; traceback, or an end by a signal;
    loss, what was sound before is gone or the repeated command ends otherwise than the undisturbed one; left, processes
    or temporary files; skipped, this machine cannot try it; broken, the suite itself failed. words: for the table, few
    and the same for the same outcome; detail: enough to do it again; tries: faults that were tried.
    """

    verdict: Verdict
    words: str
    detail: str = ""
    tries: int = 1


@dataclass(frozen=True, kw_only=True)
class Case:
    """One try: a folder of its own, randomness of its own, and commands."""

    world: World
    place: Path
    rng: random.Random
    logs: list[Path] = field(default_factory=list)

    def start(
        self,
        command: str,
        *words: str | Path,
        environment: Mapping[str, str] | None = None,
        before: Callable[[], None] | None = None,
    ) -> Child:
        """Start a command: prep, merge, verify, train, infer, report or judge."""
        log = self.place / f"log{len(self.logs)}.txt"
        self.logs.append(log)
        return start(main_of(command), [*map(str, words)], log=log, environment=environment, before=before)

    def run(
        self,
        command: str,
        *words: str | Path,
        limit: float = 0,
        environment: Mapping[str, str] | None = None,
        before: Callable[[], None] | None = None,
    ) -> Ended:
        """Run a command to its end, or to its limit in seconds (0: the world's patience)."""
        return self.start(command, *words, environment=environment, before=before).wait(limit or self.world.patience)

    def copy(self, folder: Path, name: str = "") -> Path:
        """A copy of a folder of the world, to damage."""
        return Path(shutil.copytree(folder, self.place / (name or folder.name), symlinks=True))


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of fault.

    injected, expected: as the table has them; attempt: does it once, each time at another place; quick: takes at most
    about two seconds, and belongs to the slice; once: has nothing random.
    """

    injected: str
    expected: str
    attempt: Callable[[Case], Seen]
    quick: bool = False
    once: bool = False


def main_of(command: str) -> Main:
    """The `main` of a command; those that take long to import on demand."""
    if command == "report":
        from report.__main__ import main

        return main
    if command == "judge":
        from evaluation.ensemble import main as judge

        return judge
    return COMMANDS[command]


REFUSED = "refused in one line"
SAME = "the undisturbed result"


def crashed(ended: Ended, what: str) -> Seen | None:
    """The hang or the traceback of a command, None where it ended as a command may."""
    tail = f"{what}: {ended.output[-1500:]}"
    if ended.code is None:
        return Seen(verdict="hang", words="hung", detail=tail)
    if ended.code < 0:
        return Seen(verdict="traceback", words=f"died of signal {-ended.code}", detail=tail)
    if "Traceback (most recent" in ended.output:
        return Seen(verdict="traceback", words="traceback", detail=tail)
    return None


def refused(ended: Ended, what: str, name: str = "") -> Seen:
    """A command that ended with an error: whether it is one line for people, and names the file `name`."""
    lines = [line for line in ended.output.splitlines() if line.startswith("error: ")]
    tail = f"{what}: {ended.output[-1500:]}"
    if "unexpected error" in ended.output:
        return Seen(verdict="ok", words="unexpected error, in one line", detail=tail)
    if ended.code == 1 and not lines and ended.output.strip():  # verify's list of damage
        return Seen(verdict="ok", words=REFUSED, detail=tail)
    if len(lines) != 1:
        return Seen(verdict="traceback", words=f"exit {ended.code}, {len(lines)} lines of error", detail=tail)
    named = not name or name in ended.output
    return Seen(verdict="ok", words=REFUSED if named else f"{REFUSED} without the name of the file", detail=tail)


def judged(ended: Ended, what: str, *, same: Callable[[], bool], name: str = "", said: str = "") -> Seen:
    """The outcome of a command that met damage: refused, or the same result; or another one, if it says `said`."""
    bad = crashed(ended, what)
    if bad is not None:
        return bad
    if ended.code:
        return refused(ended, what, name)
    if same():
        return Seen(verdict="ok", words=SAME)
    if said and said in ended.output:
        return Seen(verdict="ok", words="another result, and said so", detail=what)
    return Seen(verdict="silent", words="another result, not a word", detail=f"{what}: {ended.output[-1500:]}")
