"""Flipped bits, files cut short and blocks overwritten, in every kind of file that a run reads."""

import csv
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd
import yaml

from tests.chaos.case import SAME, Case, Kind, Seen, crashed, judged, refused
from tests.chaos.damage import WAYS, damage
from tests.chaos.digests import csv_digest, member_digest, outputs_digest, page_digest, settings_of
from tests.chaos.world import MEMBER, infer_words, lesion_words, prep_words, report_words, train_words

_EXPECTED = f"refused in one line, or {SAME}"
_UNKNOWABLE = "refused in one line, or taken as it now is"


def _shards(pattern: str, way: str, case: Case) -> Seen:
    """A file of a shard set, read by training, by inference or by verify."""
    shards = case.copy(case.world.shards)
    path = case.rng.choice(sorted(shards.glob(pattern)))
    what, command = damage(path, way, case.rng), case.rng.choice(["train", "infer", "infer", "verify"])
    if command == "verify" or pattern == "*.idx":  # training does not read the index
        ended = case.run("verify", shards, "--workers", "1")
        same = lambda: _parsed(path) == _parsed(case.world.shards / path.name)  # noqa: E731
        return judged(ended, f"{what}; verify", same=same, name=path.name)
    out = case.place / "out"
    if command == "train":
        ended = case.run("train", *train_words(shards, out))
        same = partial(_same_member, case, out)
    else:
        ended = case.run("infer", *infer_words(case.world.runs, shards, out, "--ensemble"))
        same = partial(_same_predictions, case, out)
    return judged(ended, f"{what}; {command}", same=same, name=path.name)


def _infer(file: str, way: str, case: Case) -> Seen:
    """A file of one of two members, read by inference."""
    runs, out = case.copy(case.world.runs), case.place / "out"
    what = damage(runs / "tiny" / case.rng.choice(["fold0", "fold1"]) / file, way, case.rng)
    more = ["--checkpoint", "best"] if file == "best.pt" else []
    ended = case.run("infer", *infer_words(runs, case.world.shards, out, "--ensemble", *more))
    wanted = case.world.digests["best" if more else "infer"]
    return judged(ended, f"{what}; infer", same=lambda: outputs_digest(out) == wanted, name=file)


def _resume(file: str, way: str, case: Case) -> Seen:
    """A file of a member that was stopped, read by the same command again."""
    out = case.copy(case.world.half)
    what = damage(out / MEMBER / file, way, case.rng)
    ended = case.run("train", *train_words(case.world.shards, out))
    # A changed digit in the records cannot be told: they must not change what is learnt.
    weights = file == "metrics.jsonl"
    same = partial(_same_member, case, out, records=not weights)
    # A best.pt that is lost leaves pred_best empty, and training says so.
    said = "warning: " if file == "best.pt" else ""
    return judged(ended, f"{what}; train again", same=same, name=file, said=said)


def _lesion(file: str, way: str, case: Case) -> Seen:
    """A file of a judged ensemble, read for one lesion."""
    outputs, answer = case.copy(case.world.outputs), case.place / "answer.csv"
    what = damage(outputs / file, way, case.rng)
    ended = case.run("infer", *lesion_words(case.world.image, case.world.runs, outputs, answer))
    same = lambda: csv_digest(answer) == case.world.digests["lesion"]  # noqa: E731
    return judged(ended, f"{what}; infer --image", same=same, name=file)


def _bundle(way: str, case: Case) -> Seen:
    """A file of an exported bundle, but for those that other programs read."""
    if case.world.bundle is None:
        return Seen(verdict="skipped", words="no bundle was made")
    bundle, answer = case.copy(case.world.bundle), case.place / "answer.csv"
    files = sorted(path for path in bundle.iterdir() if path.suffix not in (".onnx", ".md"))
    path = case.rng.choice(files)
    what = damage(path, way, case.rng)
    ended = case.run("infer", "--bundle", bundle, "--image", case.world.image, "--csv", answer, "--device", "cpu")
    same = lambda: csv_digest(answer) == case.world.digests["bundle"]  # noqa: E731
    return judged(ended, f"{what}; infer --bundle", same=same, name=path.name)


def _report(file: str, way: str, case: Case) -> Seen:
    """A file of a member or of the ensemble, read by the report: other figures are silent damage."""
    runs, outputs, out = case.copy(case.world.runs), case.copy(case.world.outputs), case.place / "report"
    own = (runs / MEMBER / file).is_file() and file != "config.yaml"
    what = damage((runs / MEMBER if own else outputs) / file, way, case.rng)
    more = [] if own else ["--predictions", str(outputs)]
    ended = case.run("report", *report_words(runs, case.world.shards, out, *more))
    wanted = case.world.digests["own report" if own else "report"]
    # A changed digit in metrics.jsonl cannot be told.
    same = lambda: file == "metrics.jsonl" or page_digest(out) == wanted  # noqa: E731
    return judged(ended, f"{what}; report", same=same, name=file, said="metrics.jsonl")


def _weights(way: str, case: Case) -> Seen:
    """A file of pretrained weights."""
    path, out = case.place / "weights.pth", case.place / "out"
    path.write_bytes(case.world.weights.read_bytes())
    what = damage(path, way, case.rng)
    ended = case.run("train", *train_words(case.world.shards, out, "--weights", str(path)))
    same = lambda: member_digest(out / MEMBER) == case.world.digests["weights"]  # noqa: E731
    return judged(ended, f"{what}; train --weights", same=same, name=path.name)


def _recipe(way: str, case: Case) -> Seen:
    """A recipe: what it now says is what is trained."""
    path, out = case.place / "recipe.yaml", case.place / "out"
    path.write_text("epochs: 1\nseed: 7\nbatch_size: 16\noptim:\n  lr: 3.0e-3\n  ema: 0.5\naugment:\n  hflip: 0.25\n")
    what = damage(path, way, case.rng)
    words = ["--backbone", "tiny", "--shards", case.world.shards, "--out", out, "--weights", "none"]
    ended = case.run("train", *words, "--config", path, "--epochs", "1", "--batch-size", "32")
    return judged(ended, f"{what}; train --config", same=lambda: _as_written(path, out), name=path.name)


def _as_written(path: Path, out: Path) -> bool:
    wanted, found = yaml.safe_load(path.read_text()) or {}, settings_of(out / MEMBER)
    wanted = {name: value for name, value in wanted.items() if name not in ("epochs", "batch_size")}
    return all(
        all(found[name][key] == each for key, each in value.items())
        if isinstance(value, dict)
        else found[name] == value
        for name, value in wanted.items()
    )


def _csv(file: str, way: str, case: Case) -> Seen:
    """A table of the downloads: a changed digit cannot be told, a lost row can."""
    downloads, out = case.copy(case.world.downloads), case.place / "master.csv"
    path = downloads / file
    what = damage(path, way, case.rng)
    sources = ["--isic2020", downloads / "2020", "--isic2019", downloads / "2019"]
    ended = case.run("merge", *sources, "--out", out, "--folds", "3", "--workers", "1")
    bad = crashed(ended, f"{what}; merge")
    if bad is not None:
        return bad
    if ended.code:
        return refused(ended, what, path.name)
    rows, found = sum(_rows(downloads / name) for name in _TRAINED), len(pd.read_csv(out))
    if found != rows:
        return Seen(verdict="silent", words="rows lost, not a word", detail=f"{what}: {found} of {rows}")
    return Seen(verdict="ok", words="taken as it now is", detail=what)


def _rows(path: Path) -> int:
    """Rows of a table that are not blank, as Python's own reader counts them."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        return sum(any(cell.strip() for cell in row) for row in csv.reader(file)) - 1


def _folds(way: str, case: Case) -> Seen:
    """A fold assignment."""
    path = case.place / "folds.csv"
    frame = pd.read_parquet(case.world.shards / "samples.parquet", columns=["key", "fold", "split"])
    frame[frame["split"] == "train"].rename(columns={"key": "image_name"}).to_csv(path, index=False)
    what = damage(path, way, case.rng)
    ended = case.run("prep", *prep_words(case.world.downloads, case.place / "set", "--folds-file", str(path)))
    bad = crashed(ended, f"{what}; prep --folds-file")
    if bad is not None:
        return bad
    return refused(ended, what, path.name) if ended.code else Seen(verdict="ok", words="taken as it now is")


def _submission(way: str, case: Case) -> Seen:
    """The challenge's sample_submission.csv: its rows are the ones that are written."""
    path, out = case.place / "sample_submission.csv", case.place / "out"
    path.write_bytes((case.world.downloads / "2020" / "sample_submission.csv").read_bytes())
    what = damage(path, way, case.rng)
    words = infer_words(case.world.runs, case.world.shards, out, "--sample-submission", str(path))
    ended = case.run("infer", *words)
    same = partial(_same_rows, case, out)
    return judged(ended, f"{what}; infer --sample-submission", same=same, name=path.name, said="warning")


def _jpeg(way: str, case: Case) -> Seen:
    """A picture: its entropy-coded part has no checksum, so another picture cannot always be told."""
    path = case.place / "lesion.jpg"
    path.write_bytes(case.world.image.read_bytes())
    what = damage(path, way, case.rng)
    words = lesion_words(path, case.world.runs, case.world.outputs, case.place / "answer.csv")
    ended = case.run("infer", *words)
    bad = crashed(ended, f"{what}; infer --image")
    if bad is not None:
        return bad
    return refused(ended, what, path.name) if ended.code else Seen(verdict="ok", words="taken as it now is")


def _packed_jpeg(way: str, case: Case) -> Seen:
    """A picture of the downloads: packed, or listed as rejected; every other one stays."""
    downloads, out = case.copy(case.world.downloads), case.place / "set"
    path = case.rng.choice(sorted((downloads / "2020" / "jpeg" / "train").iterdir()))
    what = damage(path, way, case.rng)
    ended = case.run("prep", *prep_words(downloads, out, "--on-bad", "skip"))
    bad = crashed(ended, f"{what}; prep")
    if bad is not None:
        return bad
    if ended.code:
        return refused(ended, what, path.name)
    rejected = set(pd.read_csv(out / "rejected.csv")["image_name"])
    if rejected - {path.stem}:
        return Seen(verdict="loss", words="other pictures are rejected", detail=f"{what}: {rejected}")
    return Seen(verdict="ok", words="rejected by name" if rejected else "taken as it now is")


def _same_member(case: Case, out: Path, *, records: bool = True) -> bool:
    found = member_digest(out / MEMBER, records=records)
    return found == case.world.digests["train" if records else "learnt"]


def _same_predictions(case: Case, out: Path) -> bool:
    return outputs_digest(out) == case.world.digests["infer"]


def _same_rows(case: Case, out: Path) -> bool:
    name = "submission_tiny_fold0.csv"
    return sorted((out / name).read_text().split()) == sorted((case.world.outputs / name).read_text().split())


def _parsed(path: Path) -> object:
    return json.loads(path.read_bytes()) if path.suffix == ".json" else path.read_bytes()


_TRAINED = ("2020/train.csv", "2019/ISIC_2019_Training_GroundTruth.csv")
_TABLES = (*_TRAINED, "2020/test.csv", "2019/ISIC_2019_Training_Metadata.csv", "2020/ISIC_2020_Training_Duplicates.csv")
Attempt = Callable[[str, Case], Seen]
# What is damaged -> how a case reads it, whether damage can be known, whether it takes a second or two.
_TARGETS: dict[str, tuple[Attempt, bool, bool]] = {
    "manifest.json": (partial(_shards, "manifest.json"), True, True),
    "samples.parquet": (partial(_shards, "samples.parquet"), True, True),
    "a tar": (partial(_shards, "*.tar"), True, True),
    "a tar's index": (partial(_shards, "*.idx"), True, True),
    "config.yaml of a member": (partial(_infer, "config.yaml"), True, True),
    "last.pt, before infer": (partial(_infer, "last.pt"), True, True),
    "last.pt, before resuming": (partial(_resume, "last.pt"), True, True),
    "best.pt, before infer": (partial(_infer, "best.pt"), True, True),
    "best.pt, before resuming": (partial(_resume, "best.pt"), True, True),
    "metrics.jsonl, before resuming": (partial(_resume, "metrics.jsonl"), True, True),
    "oof.parquet of a member, before a report": (partial(_report, "oof.parquet"), True, False),
    "metrics.jsonl, before a report": (partial(_report, "metrics.jsonl"), True, False),
    "predictions.parquet, before a report": (partial(_report, "predictions.parquet"), True, False),
    "ensemble.json": (partial(_lesion, "ensemble.json"), True, True),
    "oof.parquet of an ensemble": (partial(_lesion, "oof.parquet"), True, True),
    "a file of a bundle": (_bundle, True, False),
    "a --weights file": (_weights, True, True),
    "a recipe": (_recipe, True, True),
    "a folds file": (_folds, False, True),
    "sample_submission.csv": (_submission, True, True),
    "a picture, before infer": (_jpeg, False, True),
    "a picture, before prep": (_packed_jpeg, False, True),
    **{name.partition("/")[2]: (partial(_csv, name), False, True) for name in _TABLES},
}
KINDS = [
    Kind(
        injected=f"{target}, {way}",
        expected=_EXPECTED if known else _UNKNOWABLE,
        attempt=partial(attempt, way),
        quick=quick,
    )
    for way in WAYS
    for target, (attempt, known, quick) in _TARGETS.items()
]
