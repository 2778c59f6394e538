"""What commands write, as digests that differ where a result does, and not where only a time or a path does."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml

_TIMES = ("images_per_s", "waiting", "batches_ready")


def set_digest(folder: Path) -> str:
    """Of a shard set: every file's name and bytes."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        found.update(path.name.encode() + (path.read_bytes() if path.is_file() else b""))
    return found.hexdigest()


def member_digest(folder: Path, *, records: bool = True) -> str:
    """Of a member: the tensors of last.pt and best.pt, its out-of-fold predictions, and its records but for times."""
    found = hashlib.sha256()
    for name in ("last.pt", "best.pt"):
        try:
            content = torch.load(folder / name, weights_only=True)
        except Exception:  # it was damaged, and left so
            content = {}
        for part in ("model", "optimizer", "validation"):
            found.update(repr(_plain(content.get(part))).encode())
    found.update(pd.read_parquet(folder / "oof.parquet").to_csv().encode())
    for line in (folder / "metrics.jsonl").read_text().splitlines() if records else []:
        values = json.loads(line)
        kept = {name: value for name, value in values.items() if name not in _TIMES and name[:5] != "wait_"}
        found.update(repr({name: value for name, value in kept.items() if name[-3:] != "_us"}).encode())
    return found.hexdigest()


def _plain(value: object) -> object:
    """Nested tensors as digests of their bytes."""
    if isinstance(value, torch.Tensor):
        return hashlib.sha256(value.contiguous().numpy().tobytes()).hexdigest()
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


def outputs_digest(folder: Path) -> str:
    """Of infer.py --ensemble: submissions, predictions, and the ensemble but for paths and hashes of files."""
    found = hashlib.sha256()
    for path in sorted(folder.glob("submission_*.csv")):
        found.update(path.name.encode() + path.read_bytes())
    for name in ("predictions.parquet", "oof.parquet"):
        if (folder / name).is_file():
            found.update(pd.read_parquet(folder / name).to_csv().encode())
    if (folder / "ensemble.json").is_file():
        record = json.loads((folder / "ensemble.json").read_text())
        found.update(json.dumps([record["ensemble"], record["judgement"]], sort_keys=True).encode())
    return found.hexdigest()


def csv_digest(path: Path) -> str:
    """Of a table of answers: its bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "none"


def page_digest(folder: Path) -> str:
    """Of a report: the tables behind its figures, but for commands, which name folders."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*.csv")):
        lines = [line for line in path.read_bytes().splitlines() if b"--runs" not in line]
        found.update(path.name.encode() + b"\n".join(lines))
    return found.hexdigest()


def settings_of(folder: Path) -> dict[str, Any]:
    """What a member's config.yaml says that it was trained with."""
    return dict(yaml.safe_load((folder / "config.yaml").read_text())["config"])
