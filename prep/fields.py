"""What may stand in the fields of a manifest: types, ranges, and the sums that must agree."""

import re
from collections.abc import Callable
from pathlib import Path
from reprlib import repr as shortened
from typing import Any, get_args

from configs.errors import UserError
from configs.prep import MOST_FOLDS, Fit, Subsampling

SPLITS = ("train", "test", "extra")
SOURCES = (0, 2019, 2020)
_AGAIN = "build the shard set again"


def _whole(low: int, high: int = 2**53) -> tuple[Callable[[Any], bool], str]:
    wanted = f"a whole number of {low} to {high}" if high < 2**53 else f"a whole number of {low} or more"
    return lambda value: type(value) is int and low <= value <= high, wanted


def _one_of(*values: object) -> tuple[Callable[[Any], bool], str]:
    return lambda value: not isinstance(value, (bool, list, dict)) and value in values, f"one of {values}"


def _like(pattern: str, wanted: str) -> tuple[Callable[[Any], bool], str]:
    return lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None, wanted


def _kind(kind: type, wanted: str) -> tuple[Callable[[Any], bool], str]:
    return lambda value: isinstance(value, kind) and bool(value), wanted


# A name without folders, of which none is hidden.
_NAME = r"[\w-][\w.-]*"
_SHA256 = _like("[0-9a-f]{64}", "a SHA-256 of 64 hexadecimal digits")
_MANIFEST = {
    "schema_version": _whole(1),
    "size": _whole(16, 2048),
    "encoder": _kind(dict, "a mapping"),
    "options": _kind(dict, "a mapping"),
    "inputs_sha256": _SHA256,
    "samples": _whole(1),
    "left_out": _whole(0),
    "counts": _kind(list, "a list of rows"),
    "labels_sha256": _SHA256,
    "unsafe": (lambda value: value is None or isinstance(value, str), "a sentence or null"),
    "files": _kind(dict, "names and their SHA-256"),
    "shards": _kind(list, "a list of shards"),
}
_SHARD = {
    "file": _like(_NAME + r"\.tar", "the name of a tar file in this folder"),
    "bytes": _whole(1),
    "samples": _whole(1),
    "sha256": _SHA256,
}
_COUNT = {
    "source": _one_of(*SOURCES),
    "split": _one_of(*SPLITS),
    "fold": _whole(-1, MOST_FOLDS - 1),
    "target": _one_of(-1, 0, 1),
    "samples": _whole(1),
}
_ENCODER = {
    "size": _MANIFEST["size"],
    "fit": _one_of(*get_args(Fit)),
    "quality": _whole(50, 100),
    "subsampling": _one_of(*get_args(Subsampling)),
}


def check_manifest(record: dict[str, Any], path: Path) -> None:
    """Raise UserError for the first field of the manifest at `path` that is absent, unknown, of another type or out of
    its range, or that contradicts another one."""
    _check(record, _MANIFEST, path, "")
    for number, shard in enumerate(record["shards"]):
        _check(shard, _SHARD, path, f"shards[{number}].")
    for number, count in enumerate(record["counts"]):
        _check(count, _COUNT, path, f"counts[{number}].")
    encoder = record["encoder"]
    _check({name: encoder[name] for name in _ENCODER if name in encoder}, _ENCODER, path, "encoder.")
    named = _like(_NAME, "the name of a file in this folder")
    for name, sha256 in record["files"].items():
        _check({"name": name, "sha256": sha256}, {"name": named, "sha256": _SHA256}, path, f"files[{name!r}].")
    files = [shard["file"] for shard in record["shards"]]
    for good, wrong in (
        ("samples.parquet" in record["files"], "files has no samples.parquet"),
        (len({*files, *record["files"]}) == len(files) + len(record["files"]), "shards and files name a file twice"),
        (encoder["size"] == record["size"], f"size is {record['size']}, encoder.size {encoder['size']}"),
        *(
            (
                _sum(record[name]) == record["samples"],
                f"samples is {record['samples']}, {name} sum up to another number",
            )
            for name in ("shards", "counts")
        ),
    ):
        if not good:
            raise UserError(f"{path}: {wrong}; {_AGAIN}")


def _sum(parts: list[dict[str, Any]]) -> int:
    return sum(part["samples"] for part in parts)


def _check(record: Any, rules: dict[str, tuple[Callable[[Any], bool], str]], path: Path, where: str) -> None:
    """Raise UserError unless `record` has exactly the fields of `rules`, each as it should be."""
    if not isinstance(record, dict):
        raise UserError(f"{path}: {where.rstrip('.')} is {shortened(record)}, wanted a mapping; {_AGAIN}")
    for name in {**rules, **record}:
        if name not in rules:
            raise UserError(f"{path}: {where}{name} is no field of a manifest; {_AGAIN}")
        if name not in record:
            raise UserError(f"{path}: {where}{name} is missing; {_AGAIN}")
        good, wanted = rules[name]
        if not good(record[name]):
            raise UserError(f"{path}: {where}{name} is {shortened(record[name])}, wanted {wanted}; {_AGAIN}")
