"""Our trainer beside a plain one of the same recipe: the same folds, JPEGs and epochs, several seeds.

    python -m benchmarks.trainer --shards shards/sample128 --epochs 4 --seeds 5

Trains every fold with both systems from every seed (what is there already is kept), compares the pooled out-of-fold
AUCs, then times whole runs of both, alternating, with nothing else running. The AUCs compare two systems; on a small,
biased part of the images, with a tiny network, they say nothing of clinical use.
"""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.environment import environment, write_record
from configs.cli import parse, run_command
from configs.errors import UserError, check
from configs.schema import TrainConfig
from evaluation.bootstrap import auc_difference_over_seeds
from evaluation.metrics import auc

_SOURCES = {"merged": (2019, 2020), "2020 only": (2020,), "2019 only": (2019,)}


@dataclass(frozen=True, kw_only=True)
class TrainerBenchmarkConfig:
    """What `python -m benchmarks.trainer` is asked for."""

    shards: str = "shards/sample"
    """Folder of the shard set."""
    runs: str = "runs/trainer"
    """Folder of everything that is trained."""
    epochs: int = 4
    """Epochs of each run."""
    seeds: int = 5
    """Seeds of each system and fold."""
    rounds: int = 5
    """Timed pairs of whole runs, of the first folds and seeds."""
    also_timed: str | None = None
    """Another shard set of the same images, of another size, to time one epoch of."""
    out: str = "benchmarks/results/trainer.json"
    """Where the record is written."""

    def __post_init__(self) -> None:
        for name in ("epochs", "seeds", "rounds"):
            check(getattr(self, name) >= 1, name, getattr(self, name), "give 1 or more")


def main(argv: Sequence[str]) -> None:
    """Train what is missing, compare, time, record."""
    description = (__doc__ or "").split("\n")[0]
    config = parse(TrainerBenchmarkConfig, argv, prog="python -m benchmarks.trainer", description=description)
    table = export(Path(config.shards), Path(config.runs) / "data")
    folds = sorted(table["fold"].unique().tolist())
    for seed in range(config.seeds):
        for fold in folds:
            for system in (ours, plain):
                system(config, Path(config.runs), fold, seed)
    scores = {system.__name__: _pooled(config, table, folds, system.__name__) for system in (ours, plain)}
    timings = [timed(config, folds)]
    if config.also_timed:
        other = replace(config, shards=config.also_timed, runs=f"{config.runs}/other", epochs=1)
        export(Path(other.shards), Path(other.runs) / "data")
        timings.append(timed(other, folds))
    record = {
        "what": "tiny backbone from random weights, both trainers: pooled out-of-fold AUC after the last epoch",
        **environment(),
        "config": {name: value for name, value in asdict(config).items() if name not in ("runs", "out")},
        "recipe": {"batch_size": _recipe().batch_size, "lr": _recipe().optim.lr},
        "size": _size(Path(config.shards)),
        "samples": len(table),
        "melanomas": int(table["target"].sum()),
        "groups": int(table["group"].nunique()),
        "auc": {name: compared(table, scores, years) for name, years in _SOURCES.items()},
        "timings": timings,
    }
    write_record(Path(config.out), record)


def export(shards: Path, out: Path, *, most: int | None = None) -> pd.DataFrame:
    """Write the training JPEGs, `most` of them or all, and a table as a notebook has them.

    Returns the table with each row's group.
    """
    from loaders.shards import ShardSet

    opened = ShardSet(shards)
    rows = np.flatnonzero(opened.fold >= 0)
    rows = rows[:: -(-len(rows) // (most or len(rows)))]
    known = pd.read_parquet(shards / "samples.parquet", columns=["key", "group"]).set_index("key")["group"]
    table = pd.DataFrame(
        {
            "key": [str(opened.key[row]) for row in rows.tolist()],
            "fold": opened.fold[rows],
            "source": opened.source[rows],
            "target": opened.target[rows],
        }
    )
    for column in range(opened.meta.shape[1]):
        table[f"meta_{column}"] = opened.meta[rows, column]
    if not (out / "table.csv").is_file():
        (out / "images").mkdir(parents=True, exist_ok=True)
        for key, row in zip(table["key"], rows.tolist(), strict=True):
            (out / "images" / f"{key}.jpg").write_bytes(opened.jpeg(row))
        table.to_csv(out / "table.csv", index=False)
    opened.close()
    return table.assign(group=known.loc[table["key"]].to_numpy())


def ours(config: TrainerBenchmarkConfig, runs: Path, fold: int, seed: int) -> Path:
    """Train a fold with train.py; returns the file of its predictions."""
    out = runs / "ours" / f"seed{seed}"
    found = out / "tiny" / f"fold{fold}" / "oof.parquet"
    if not found.is_file():
        words = ["train.py", "--backbone", "tiny", "--shards", config.shards, "--epochs", str(config.epochs)]
        _run([*words, "--fold", str(fold), "--seed", str(seed), "--out", str(out)])
    return found


def plain(config: TrainerBenchmarkConfig, runs: Path, fold: int, seed: int) -> Path:
    """Train a fold with the plain trainer; returns the file of its predictions."""
    out = runs / "plain" / f"seed{seed}" / f"fold{fold}.csv"
    if not out.is_file():
        out.parent.mkdir(parents=True, exist_ok=True)
        recipe = _recipe()
        words = ["-m", "benchmarks.peers.plain_torch", "--data", f"{config.runs}/data", "--epochs", str(config.epochs)]
        words += ["--batch-size", str(recipe.batch_size), "--lr", str(recipe.optim.lr)]
        _run([*words, "--fold", str(fold), "--seed", str(seed), "--out", str(out)])
    return out


def compared(table: pd.DataFrame, scores: dict[str, Any], years: tuple[int, ...]) -> dict[str, Any]:
    """AUCs of both systems, seed by seed, and their difference with its interval over groups and seeds."""
    rows = table["source"].isin(years).to_numpy()
    target = table["target"].to_numpy()[rows]
    a, b = scores["ours"][:, rows], scores["plain"][:, rows]
    difference = auc_difference_over_seeds(target, a, b, table["group"].to_numpy()[rows])
    return {
        "ours": [round(auc(target, row), 4) for row in a],
        "plain": [round(auc(target, row), 4) for row in b],
        "ours_minus_plain": {name: round(value, 4) for name, value in asdict(difference).items()},
    }


def timed(config: TrainerBenchmarkConfig, folds: list[int]) -> dict[str, Any]:
    """Wall seconds of whole processes, one pair a round, the order of the two turned in every other round."""
    found: list[dict[str, float]] = []
    for number in range(config.rounds):
        seconds = {}
        systems: list[Callable[..., Path]] = [ours, plain] if number % 2 == 0 else [plain, ours]
        for system in systems:
            runs = Path(config.runs) / "timed"
            shutil.rmtree(runs, ignore_errors=True)
            begin = time.perf_counter()
            system(config, runs, folds[number % len(folds)], number)
            seconds[system.__name__] = time.perf_counter() - begin
        found.append({name: round(value, 1) for name, value in seconds.items()})
    ratios = [one["ours"] / one["plain"] for one in found]
    return {
        "size": _size(Path(config.shards)),
        "epochs": config.epochs,
        "seconds": found,
        "ratio": {"median": round(median(ratios), 3), "low": round(min(ratios), 3), "high": round(max(ratios), 3)},
    }


def _pooled(config: TrainerBenchmarkConfig, table: pd.DataFrame, folds: list[int], system: str) -> Any:
    """Predictions [seeds, N] of the held-out samples, in the table's order."""
    rows = []
    for seed in range(config.seeds):
        parts = []
        for fold in folds:
            folder = Path(config.runs) / system / f"seed{seed}"
            if system == "ours":
                parts.append(pd.read_parquet(folder / "tiny" / f"fold{fold}" / "oof.parquet"))
            else:
                parts.append(pd.read_csv(folder / f"fold{fold}.csv"))
        rows.append(pd.concat(parts).set_index("key")["pred_last"].loc[table["key"]].to_numpy())
    return np.stack(rows)


def _recipe() -> TrainConfig:
    return parse(TrainConfig, ["--config", "configs/tiny.yaml"], prog="", description="")


def _size(shards: Path) -> int:
    from prep.manifest import read_manifest

    return read_manifest(shards).size


def _run(words: list[str]) -> None:
    print(f"$ python {' '.join(words)}", flush=True)
    if subprocess.run([sys.executable, *words], check=False).returncode:
        raise UserError(f"python {' '.join(words)} failed: see above")


if __name__ == "__main__":
    run_command(main)
