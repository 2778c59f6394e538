"""Disks that are full or read-only, and files that may not grow."""

import ctypes
import os
import resource
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.chaos.case import Case, Kind, Seen, crashed
from tests.chaos.children import Ended
from tests.chaos.digests import member_digest, outputs_digest, page_digest, set_digest
from tests.chaos.groups.kills import again
from tests.chaos.world import MEMBER, infer_words, prep_words, report_words, train_words

_CLONE_NEWNS = 0x00020000
_EXPECTED = "one line that names a file; once there is room, the same command ends as an undisturbed one"


@dataclass(frozen=True, kw_only=True)
class Writer:
    """A command, what it writes below a folder, in KB about, and whether that is the undisturbed result."""

    command: str
    kilobytes: int
    words: Callable[[Case, Path], list[str]]
    same: Callable[[Case, Path], bool]


WRITERS = {
    "prep": Writer(
        command="prep",
        kilobytes=2500,
        words=lambda case, out: prep_words(case.world.downloads, out / "set"),
        same=lambda case, out: set_digest(out / "set") == case.world.digests["prep"],
    ),
    "train": Writer(
        command="train",
        kilobytes=5500,
        words=lambda case, out: train_words(case.world.shards, out / "runs", "--save-every", "1"),
        same=lambda case, out: member_digest(out / "runs" / MEMBER) == case.world.digests["train"],
    ),
    "infer": Writer(
        command="infer",
        kilobytes=60,
        words=lambda case, out: infer_words(case.world.runs, case.world.shards, out / "out", "--ensemble"),
        same=lambda case, out: outputs_digest(out / "out") == case.world.digests["infer"],
    ),
    "report": Writer(
        command="report",
        kilobytes=1500,
        words=lambda case, out: report_words(
            case.world.runs, case.world.shards, out / "report", "--predictions", str(case.world.outputs)
        ),
        same=lambda case, out: page_digest(out / "report") == case.world.digests["report"],
    ),
}


def _full(writer: Writer, case: Case) -> Seen:
    """A small disk that fills up, then grows."""
    size = case.rng.randint(4, writer.kilobytes)
    disk = mounted(case, f"size={size}k")
    if disk is None:
        return Seen(verdict="skipped", words="no disk can be mounted here")
    what = f"{writer.command} on a disk of {size} KB"
    ended = case.run(writer.command, *writer.words(case, disk))
    return _then(case, writer, disk, ended, what, lambda: _remount(disk, "size=100m"))


def _read_only(writer: Writer, case: Case) -> Seen:
    """A disk that cannot be written."""
    disk = mounted(case, "size=100m")
    if disk is None:
        return Seen(verdict="skipped", words="no disk can be mounted here")
    _remount(disk, "ro")
    ended = case.run(writer.command, *writer.words(case, disk))
    return _then(case, writer, disk, ended, f"{writer.command} on a read-only disk", lambda: _remount(disk, "rw"))


def _no_growth(writer: Writer, case: Case) -> Seen:
    """No file may become larger than a limit (ulimit -f)."""
    size, out = 1024 * case.rng.randint(4, max(5, writer.kilobytes // 3)), case.place / "disk"
    out.mkdir()
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))  # noqa: E731
    ended = case.run(writer.command, *writer.words(case, out), before=limit)
    return _then(case, writer, out, ended, f"{writer.command} with files of at most {size} bytes", lambda: None)


def _then(case: Case, writer: Writer, out: Path, ended: Ended, what: str, make_room: Callable[[], None]) -> Seen:
    """The outcome of a command without room, and of the same command with room."""
    bad = crashed(ended, what)
    if bad is not None:
        return bad
    lines = [line for line in ended.output.splitlines() if line.startswith("error: ")]
    if not ended.code:
        if writer.same(case, out):
            return Seen(verdict="ok", words="there was room")
        return Seen(verdict="silent", words="exit 0 without its files", detail=f"{what}: {ended.output[-1500:]}")
    if len(lines) != 1:
        return Seen(verdict="traceback", words=f"{len(lines)} lines of error", detail=f"{what}: {ended.output[-1500:]}")
    named = str(out) in lines[0]
    make_room()
    seen = again(case.run(writer.command, *writer.words(case, out)), what, lambda: writer.same(case, out), out)
    if seen.verdict != "ok":
        return seen
    name = "" if named else ", no file named"
    return Seen(verdict="ok", words=f"one line{name}, then as undisturbed", detail=lines[0])


def mounted(case: Case, options: str) -> Path | None:
    """A disk in memory, gone with this process; None where none may be mounted."""
    libc = ctypes.CDLL(None, use_errno=True)
    if os.geteuid() or libc.unshare(_CLONE_NEWNS):
        return None
    disk = case.place / "disk"
    disk.mkdir()
    for words in (["--make-rprivate", "/"], ["-t", "tmpfs", "-o", options, "chaos", str(disk)]):
        if subprocess.run(["mount", *words], check=False, capture_output=True).returncode:
            return None
    return disk


def _remount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(disk)], check=True, capture_output=True)


KINDS = [
    Kind(
        injected=f"{name}, {what}",
        expected=_EXPECTED,
        attempt=partial(attempt, writer),
        quick=name != "report",
        once=what == "a read-only disk",
    )
    for what, attempt in (
        ("a disk that fills up", _full),
        ("a read-only disk", _read_only),
        ("files that may not grow", _no_growth),
    )
    for name, writer in WRITERS.items()
]
