"""What is not what it should be: pipes, devices, folders and links as files; hostile tars and manifests."""

import io
import json
import os
import shutil
import socket
import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from tests.chaos.case import SAME, Case, Kind, Seen, judged
from tests.chaos.digests import csv_digest, member_digest, outputs_digest, set_digest
from tests.chaos.world import MEMBER, infer_words, lesion_words, prep_words, train_words


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _folder(path: Path) -> None:
    path.mkdir()


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


def _nothing(_: Path) -> None:
    pass


def _socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # a socket's path may have 107 characters
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


THINGS: dict[str, Callable[[Path], None]] = {
    "a pipe": _pipe,
    "/dev/zero": _device,
    "a folder": _folder,
    "a link to itself": _loop,
    "a socket": _socket,
    "nothing": _nothing,
}


def _instead(thing: str, case: Case) -> Seen:
    """One file that a command reads is something else."""
    world, out = case.world, case.place / "out"
    readers: dict[str, tuple[Path, list[str]]] = {
        "prep": (world.downloads, ["2020/train.csv", "2020/test.csv", "2019/*Metadata.csv", "2020/jpeg/train/*.jpg"]),
        "train": (world.shards, ["manifest.json", "samples.parquet", "train-*.tar"]),
        "verify": (world.shards, ["manifest.json", "samples.parquet", "*.tar", "*.idx"]),
        "resume": (world.half, ["tiny/fold0/last.pt", "tiny/fold0/best.pt", "tiny/fold0/metrics.jsonl"]),
        "infer": (world.runs, ["tiny/fold0/config.yaml", "tiny/fold0/last.pt"]),
        "lesion": (world.outputs, ["ensemble.json", "oof.parquet"]),
    }
    reader = case.rng.choice(sorted(readers))
    folder = case.copy(readers[reader][0])
    path = case.rng.choice(sorted(folder.glob(case.rng.choice(readers[reader][1]))))
    path.unlink()
    THINGS[thing](path)
    commands: dict[str, tuple[str, list[str], Callable[[], bool]]] = {
        "prep": ("prep", prep_words(folder, out), lambda: set_digest(out) == world.digests["prep"]),
        "train": ("train", train_words(folder, out), lambda: _member(out) == world.digests["train"]),
        "verify": ("verify", [str(folder), "--workers", "1"], lambda: False),
        "resume": ("train", train_words(world.shards, folder), lambda: _learnt(folder) == world.digests["learnt"]),
        "infer": (
            "infer",
            infer_words(folder, world.shards, out, "--ensemble"),
            lambda: outputs_digest(out) == world.digests["infer"],
        ),
        "lesion": (
            "infer",
            lesion_words(world.image, world.runs, folder, case.place / "answer.csv"),
            lambda: csv_digest(case.place / "answer.csv") == world.digests["lesion"],
        ),
    }
    command, words, same = commands[reader]
    ended = case.run(command, *words)
    if thing == "nothing" and reader in ("infer", "prep", "resume") and ended.code == 0:
        # A member, a test table or a checkpoint that is not there at all is no damage.
        return Seen(verdict="ok", words="gone, and done without it", detail=str(path))
    return judged(ended, f"{path.name} is {thing}; {reader}", same=same, name=path.name.removesuffix(".jpg"))


def _picture(thing: str, case: Case) -> Seen:
    """The picture of a lesion is something else."""
    path = case.place / "lesion.jpg"
    THINGS[thing](path)
    words = lesion_words(path, case.world.runs, case.world.outputs, case.place / "answer.csv")
    ended = case.run("infer", *words)
    return judged(ended, f"--image is {thing}", same=lambda: False, name=path.name)


def _tar(case: Case) -> Seen:
    """A shard in another form, of the same length where that is possible."""
    shards, out = case.copy(case.world.shards), case.place / "out"
    path = case.rng.choice(sorted(shards.glob("train-*.tar")))
    name, make = case.rng.choice(sorted(_TARS.items()))
    length, content = path.stat().st_size, make(path, case.rng)
    path.write_bytes(content.ljust(length, b"\0")[: max(length, len(content) if case.rng.random() < 0.5 else 0)])
    command = case.rng.choice(["train", "verify"])
    words = [str(shards), "--workers", "1"] if command == "verify" else train_words(shards, out)
    ended = case.run(command, *words)
    same = lambda: command == "train" and _member(out) == case.world.digests["train"]  # noqa: E731
    seen = judged(ended, f"{path.name} {name}; {command}", same=same, name=path.name)
    escaped = [str(each) for each in (case.place / "evil", case.place.parent / "evil", Path("/tmp/evil"))]
    if any(Path(each).exists() for each in escaped):
        return Seen(verdict="loss", words="a tar wrote outside its folder", detail=name)
    return seen


def _with_members(members: Callable[[tarfile.TarFile], None]) -> Callable[[Path, Random], bytes]:
    def make(_: Path, __: Random) -> bytes:
        found = io.BytesIO()
        with tarfile.open(fileobj=found, mode="w") as tar:
            members(tar)
        return found.getvalue()

    return make


def _outside(tar: tarfile.TarFile) -> None:
    for name in ("../evil", "/tmp/evil", "a/../../evil"):
        member = tarfile.TarInfo(name)
        member.size = 4
        tar.addfile(member, io.BytesIO(b"evil"))


def _links(tar: tarfile.TarFile) -> None:
    for kind, name in ((tarfile.SYMTYPE, "ISIC_0.jpg"), (tarfile.LNKTYPE, "ISIC_1.jpg"), (tarfile.FIFOTYPE, "a.jpg")):
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, "/etc/passwd"
        tar.addfile(member)


def _huge(tar: tarfile.TarFile) -> None:
    member = tarfile.TarInfo("ISIC_0000000.jpg")
    member.size = 2**40
    assert tar.fileobj is not None
    tar.fileobj.write(member.tobuf())


_TARS: dict[str, Callable[[Path, Random], bytes]] = {
    "names files outside": _with_members(_outside),
    "holds links and a pipe": _with_members(_links),
    "promises a terabyte": _with_members(_huge),
    "is noise": lambda path, rng: rng.randbytes(path.stat().st_size),
    "is another shard": lambda path, rng: rng.choice(
        [each.read_bytes() for each in sorted(path.parent.glob("*.tar")) if each != path]
    ),
    "has its samples in another order": lambda path, _: path.read_bytes()[1024:] + path.read_bytes()[:1024],
}


def _manifest(case: Case) -> Seen:
    """One value of manifest.json is another one, or of another type; a field is gone, or one more is there."""
    shards, out = case.copy(case.world.shards), case.place / "out"
    path = shards / "manifest.json"
    content = json.loads(path.read_text())
    place = case.rng.choice(_places(content))
    value = case.rng.choice([*_VALUES, "gone", "unknown"])
    _change(content, place, value)
    path.write_text(json.dumps(content, indent=1))
    if content == json.loads((case.world.shards / "manifest.json").read_text()):
        return Seen(verdict="ok", words=SAME)
    ended = case.run("infer", *infer_words(case.world.runs, shards, out, "--ensemble"))
    same = lambda: outputs_digest(out) == case.world.digests["infer"]  # noqa: E731
    return judged(ended, f"{place} = {value!r}", same=same, name="manifest.json")


_VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    74,
    1.5,
    10**30,
    float("nan"),
    "",
    "../x",
    "\0",
    "é" * 300,
    [],
    {},
    [[1]],
)


def _places(content: Any, before: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value in nested lists and dicts."""
    inner = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [*([before] if before else []), *(way for key, each in inner for way in _places(each, (*before, key)))]


def _change(content: Any, place: tuple[Any, ...], value: Any) -> None:
    for key in place[:-1]:
        content = content[key]
    if value == "gone":
        del content[place[-1]]
    elif value == "unknown" and isinstance(content, dict):
        content["unknown"] = 1
    else:
        content[place[-1]] = value


def _other_set(case: Case) -> Seen:
    """samples.parquet, a tar or the manifest of a set that was made with another seed."""
    other, shards, out = case.place / "other", case.copy(case.world.shards), case.place / "out"
    made = case.run("prep", *prep_words(case.world.downloads, other, "--seed", "9"))
    if made.code:
        return Seen(verdict="broken", words="no other set", detail=made.output)
    name = case.rng.choice(["samples.parquet", "manifest.json", "train-fold0-000000.tar", "train-fold1-000001.tar"])
    shutil.copy(other / name, shards / name)
    ended = case.run("train", *train_words(shards, out))
    return judged(ended, f"{name} of another set", same=lambda: _member(out) == case.world.digests["train"], name=name)


def _member(out: Path) -> str:
    return member_digest(out / MEMBER)


def _learnt(out: Path) -> str:
    return member_digest(out / MEMBER, records=False)


_EXPECTED = f"refused in one line, or {SAME}"
KINDS = [
    *(
        Kind(injected=f"{thing} in a file's place", expected=_EXPECTED, attempt=partial(_instead, thing), quick=True)
        for thing in THINGS
    ),
    *(
        Kind(
            injected=f"{thing} as --image", expected=_EXPECTED, attempt=partial(_picture, thing), quick=True, once=True
        )
        for thing in THINGS
    ),
    Kind(injected="a hostile tar", expected=f"{_EXPECTED}; nothing written elsewhere", attempt=_tar, quick=True),
    Kind(injected="another value in manifest.json", expected=_EXPECTED, attempt=_manifest, quick=True),
    Kind(injected="a file of another set", expected=_EXPECTED, attempt=_other_set, quick=True),
]
