"""The sound world that faults are injected into: made-up downloads, a shard set, members, an ensemble, a bundle."""

import json
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path

import torch

import infer
import prep.shard
import prep.synthetic
import train
from models.backbones import create_backbone
from tests.chaos.children import Child, Main, start
from tests.chaos.digests import csv_digest, member_digest, outputs_digest, page_digest, set_digest

SIZE = 32
MEMBER = Path("tiny", "fold0")


@dataclass(frozen=True, kw_only=True)
class World:
    """Folders that cases copy, and the digests of undisturbed results.

    downloads: with 2019/ and 2020/; shards: the set; runs: two finished members; half: fold 0, stopped within its
    training; outputs: what infer.py --ensemble wrote; bundle: what --export wrote, None in the slice; image: of a
    lesion; weights: of a backbone; digests: what each undisturbed command came to, by name; seconds: what it took.
    """

    downloads: Path
    shards: Path
    runs: Path
    half: Path
    outputs: Path
    bundle: Path | None
    image: Path
    weights: Path
    digests: dict[str, str]
    seconds: dict[str, float]

    @property
    def patience(self) -> float:
        """Seconds after which a command counts as hung: a minute, and more on a slow or a busy machine."""
        return 60 + 3 * max(self.seconds.values())


def prep_words(downloads: Path, out: Path, *more: str) -> list[str]:
    """A shard set of the downloads: three folds, 20 samples a shard."""
    sources = ["--isic2020", str(downloads / "2020"), "--isic2019", str(downloads / "2019")]
    form = ["--size", str(SIZE), "--folds", "3", "--samples-per-shard", "20", "--workers", "1"]
    return [*sources, *form, "--out", str(out), *more]


def train_words(shards: Path, out: Path, *more: str) -> list[str]:
    """Two epochs of fold 0 on one core; saved and logged at every second step."""
    recipe = ["--backbone", "tiny", "--weights", "none", "--batch-size", "16", "--epochs", "2", "--patience", "0"]
    often = ["--save-every", "2", "--log-every", "1", "--device", "cpu"]
    return ["--shards", str(shards), "--out", str(out), *recipe, *often, *more]


def infer_words(runs: Path, shards: Path, out: Path, *more: str) -> list[str]:
    """Predict the test images with one view."""
    folders = ["--runs", str(runs), "--shards", str(shards), "--out", str(out)]
    return [*folders, "--views", "1", "--device", "cpu", *more]


def lesion_words(image: Path, runs: Path, out: Path, csv: Path, *more: str) -> list[str]:
    """Predict one picture by the ensemble."""
    return ["--image", str(image), "--runs", str(runs), "--out", str(out), "--csv", str(csv), "--device", "cpu", *more]


def report_words(runs: Path, shards: Path, out: Path, *more: str) -> list[str]:
    """The quickest report: no artefacts are looked for or drawn."""
    few = ["--pictures", "0", "--stressed", "0", "--draws", "100", "--device", "cpu"]
    return ["--runs", str(runs), "--shards", str(shards), "--out", str(out), *few, *more]


def make_world(root: Path, *, whole: bool) -> World:
    """Make every part in forked children, and import in this process what they had to import.

    Without `whole` there are no bundle and no report, which take as long as all the rest.
    """
    downloads, shards, runs, outputs = root / "downloads", root / "set", root / "runs", root / "outputs"
    half, weights, bundle, answer = root / "half", root / "weights.pth", root / "bundle", root / "answer.csv"
    seconds: dict[str, float] = {}

    def must(name: str, main: Main, words: Sequence[str], ranks: int = 1) -> None:
        noted = main if ranks > 1 else _with_its_imports(main, root / "imports")
        ended = [child.wait(600) for child in start_ranks(noted, words, root / f"{name}.log", ranks)]
        if any(each.code != 0 for each in ended):
            raise RuntimeError(f"a sound {name} failed: {[each.output for each in ended]}")
        seconds[name] = max(each.seconds for each in ended)
        _take_imports(root / "imports")

    network = create_backbone("tiny", size=SIZE, weights="none").module  # after timm's own way to be imported
    torch.save(network.state_dict(), weights)
    synthetic = ["--train", "100", "--test", "10", "--size", str(SIZE), "--workers", "1"]
    must("synthetic", prep.synthetic.main, ["--out", str(downloads), *synthetic])
    must("prep", prep.shard.main, prep_words(downloads, shards))
    must("first", train.main, train_words(shards, runs, "--fold", "1"))
    must("train", train.main, train_words(shards, runs))
    must("pair", train.main, train_words(shards, root / "pair"), ranks=2)
    must("weights", train.main, train_words(shards, root / "weighted", "--weights", str(weights)))
    _half_trained(train_words(shards, half), half, root / "half.log")
    must("infer", infer.main, infer_words(runs, shards, outputs, "--ensemble"))
    must("best", infer.main, infer_words(runs, shards, root / "best", "--ensemble", "--checkpoint", "best"))
    image = sorted((downloads / "2020" / "jpeg" / "test").iterdir())[0]
    must("lesion", infer.main, lesion_words(image, runs, outputs, answer))
    sources: dict[str, Callable[[], str]] = {
        "prep": lambda: set_digest(shards),
        "train": lambda: member_digest(runs / MEMBER),
        "learnt": lambda: member_digest(runs / MEMBER, records=False),
        "pair": lambda: member_digest(root / "pair" / MEMBER),
        "weights": lambda: member_digest(root / "weighted" / MEMBER),
        "infer": lambda: outputs_digest(outputs),
        "best": lambda: outputs_digest(root / "best"),
        "lesion": lambda: csv_digest(answer),
    }
    if whole:
        from report.__main__ import main as report

        must("export", infer.main, infer_words(runs, shards, outputs, "--export", str(bundle)))
        must("bundle", infer.main, ["--bundle", str(bundle), "--image", str(image), "--csv", str(root / "bundle.csv")])
        must("report", report, report_words(runs, shards, root / "report", "--predictions", str(outputs)))
        must("own report", report, report_words(runs, shards, root / "own"))
        sources["bundle"] = lambda: csv_digest(root / "bundle.csv")
        sources["report"] = lambda: page_digest(root / "report")
        sources["own report"] = lambda: page_digest(root / "own")
    found = root / "digests.json"  # in a child: to read parquet is to start threads
    must("digests", lambda _: _write_json(found, {name: make() for name, make in sources.items()}), [])
    digests = dict(json.loads(found.read_text()))
    return World(
        downloads=downloads,
        shards=shards,
        runs=runs,
        half=half,
        outputs=outputs,
        bundle=bundle if whole else None,
        image=image,
        weights=weights,
        digests=digests,
        seconds=seconds,
    )


def start_ranks(main: Main, words: Sequence[str], log: Path, ranks: int) -> list[Child]:
    """Start a command, or as many ranks of it as torchrun would; each on one core."""
    port = _free_port()
    return [
        start(
            main,
            words,
            log=log.with_suffix(f".{rank}.log"),
            environment=_rank_environment(rank, ranks, port) if ranks > 1 else None,
            before=partial(pin, rank),
        )
        for rank in range(ranks)
    ]


def _rank_environment(rank: int, ranks: int, port: int) -> dict[str, str]:
    """What torchrun tells a rank."""
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "MASTER_PORT": port}
    return {"MASTER_ADDR": "127.0.0.1", **{name: str(value) for name, value in names.items()}}


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _with_its_imports(main: Main, path: Path) -> Main:
    """`main`, which then writes what it had to import, in that order."""

    def wrapped(argv: Sequence[str]) -> None:
        main(argv)
        path.write_text("\n".join(sys.modules))

    return wrapped


def _take_imports(path: Path) -> None:
    """Import what a child had to import, so that the next ones need not."""
    for name in path.read_text().split():
        if name not in sys.modules and "__main__" not in name:
            with suppress(Exception):
                import_module(name)


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content))


def _half_trained(words: Sequence[str], out: Path, log: Path) -> None:
    """Stop a training as soon as it has saved its best epoch so far; again, where it had finished by then."""
    for _ in range(10):
        child = start(train.main, [*words, "--resume", "never"], log=log, before=partial(pin, 0))
        end = time.monotonic() + 60
        while not (out / MEMBER / "best.pt").is_file() and time.monotonic() < end:
            time.sleep(0.002)
        child.kill(signal.SIGTERM)
        ended = child.wait(60)
        if not ended.code and "run the same command again" in ended.output:
            return
        shutil.rmtree(out, ignore_errors=True)
    raise RuntimeError(f"a training could not be stopped halfway: {ended.output}")


def pin(slot: int) -> None:
    """Keep this process and its children on one core, so that sums always have the same order."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[slot % len(cores)]})
