"""Our trainer beside a plain one of the same recipe: the same folds, JPEGs and epochs, several seeds.

    python -m benchmarks.trainer --shards shards/sample128 --epochs 4 --seeds 5

Every fold with both systems from every seed, in turns and with nothing else running; what is there already is kept.
"""

import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from benchmarks.record import write
from benchmarks.rounds import ratios, spread
from configs.cli import RECIPES, parse, run_command
from configs.errors import UserError, check
from configs.machine import usable_cores
from configs.schema import TrainConfig
from evaluation.bootstrap import auc_difference_over_seeds
from evaluation.discrimination import auc
from loaders.shards import ShardSet
from models.backbones import SHORT_NAMES
from prep.metadata import FEATURES

_WHAT = (
    "The plain one is benchmarks/peers/plain_torch.py: DataLoader, Pillow, albumentations, float32, as a notebook does "
    "it. Both train tiny from random weights with the same recipe, folds, JPEGs and epochs, 5 folds from every seed: "
    "pooled out-of-fold AUC after the last epoch (mean of seeds, range; the difference with its 95 % interval over "
    "groups and seeds; the standard error of a single year is about 0.02), and wall time of whole runs of one fold"
)
SYSTEMS = ("ours", "plain")
_SOURCES = {"merged": (2019, 2020), "2020 only": (2020,), "2019 only": (2019,)}
_PLAIN_IMAGES, _PLAIN_SECONDS = 20_000, 1800


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
    out: str = "benchmarks/results/trainer.json"
    """Where the record is written."""

    def __post_init__(self) -> None:
        for name in ("epochs", "seeds"):
            check(getattr(self, name) >= 1, name, getattr(self, name), "give 1 or more")


def main(argv: Sequence[str]) -> None:
    """Train what is missing, compare, record."""
    description = (__doc__ or "").split("\n")[0]
    config = parse(TrainerBenchmarkConfig, argv, prog="python -m benchmarks.trainer", description=description)
    table = export(Path(config.shards), Path(config.runs) / "data")
    seconds: dict[str, list[float]] = {system: [] for system in SYSTEMS}
    found: dict[str, list[pd.DataFrame]] = {system: [] for system in SYSTEMS}
    for seed in range(config.seeds):
        for fold in sorted(table["fold"].unique().tolist()):
            for system in SYSTEMS if (seed + fold) % 2 else SYSTEMS[::-1]:
                predictions, spent = trained(system, config, fold, seed)
                found[system].append(predictions.assign(seed=seed))
                seconds[system].append(spent)
    pooled = {
        name: pd.concat(parts).pivot(index="seed", columns="key", values="pred_last") for name, parts in found.items()
    }
    scores = {name: rows[table["key"]].to_numpy() for name, rows in pooled.items()}
    record = {
        "what": _WHAT,
        "epochs": config.epochs,
        "seeds": config.seeds,
        "samples": len(table),
        "melanomas": int(table["target"].sum()),
        "auc": {name: compared(table, scores, years) for name, years in _SOURCES.items()},
        "seconds": {system: spread(spent) for system, spent in seconds.items()},
        "ratio": spread(ratios(seconds["ours"], seconds["plain"])),
    }
    write(Path(config.out), record)


def export(shards: Path, out: Path, *, most: int | None = None) -> pd.DataFrame:
    """Write the training JPEGs, `most` of them or all, and a table as a notebook has them.

    Returns the table with each row's group.
    """
    opened = ShardSet(shards)
    rows = np.flatnonzero(opened.fold >= 0)
    rows = rows[:: -(-len(rows) // (most or len(rows)))]
    known = pd.read_parquet(shards / "samples.parquet", columns=["key", "group"]).set_index("key")["group"]
    facts = {"fold": opened.fold[rows], "source": opened.source[rows], "target": opened.target[rows]}
    meta = {f"meta_{column}": opened.meta("clinical")[rows, column] for column in range(len(FEATURES["clinical"]))}
    table = pd.DataFrame({"key": [str(opened.key[row]) for row in rows.tolist()], **facts, **meta})
    if not (out / "table.csv").is_file():
        (out / "images").mkdir(parents=True, exist_ok=True)
        for key, row in zip(table["key"], rows.tolist(), strict=True):
            (out / "images" / f"{key}.jpg").write_bytes(opened.jpeg(row))
        table.to_csv(out / "table.csv", index=False)
    opened.close()
    return table.assign(group=known.loc[table["key"]].to_numpy())


def trained(system: str, config: TrainerBenchmarkConfig, fold: int, seed: int) -> tuple[pd.DataFrame, float]:
    """Train a fold with "ours" or "plain", unless it is there already; its predictions, and seconds of wall time."""
    out = Path(config.runs, system, f"seed{seed}")
    same = ["--epochs", str(config.epochs), "--fold", str(fold), "--seed", str(seed)]
    if system == "ours":
        found = out / "tiny" / f"fold{fold}" / "oof.parquet"
        words = ["train.py", "--backbone", "tiny", "--shards", config.shards, *same, "--out", str(out)]
    else:
        found = out / f"fold{fold}.csv"
        recipe = parse(TrainConfig, ["--config", str(RECIPES / "tiny.yaml")], prog="", description="")
        words = [*_plain_words(Path(config.runs, "data"), found, recipe.batch_size, recipe.optim.lr), *same]
    spent = found.parent / f"seconds{fold}"
    if not found.is_file() or not spent.is_file():
        out.mkdir(parents=True, exist_ok=True)
        print(f"$ python {' '.join(words)}", flush=True)
        begin = time.perf_counter()
        if subprocess.run([sys.executable, *words], check=False).returncode:
            raise UserError(f"python {' '.join(words)} failed: see above")
        spent.write_text(f"{time.perf_counter() - begin:.1f}")
    return pd.read_parquet(found) if system == "ours" else pd.read_csv(found), float(spent.read_text())


def compared(table: pd.DataFrame, scores: dict[str, Any], years: tuple[int, ...]) -> dict[str, Any]:
    """AUCs of both systems, seed by seed, and their difference with its interval over groups and seeds."""
    rows = table["source"].isin(years).to_numpy()
    target = table["target"].to_numpy()[rows]
    ours, plain = (scores[system][:, rows] for system in SYSTEMS)
    difference = auc_difference_over_seeds(target, ours, plain, table["group"].to_numpy()[rows])
    return {
        "ours": [round(auc(target, row), 4) for row in ours],
        "plain": [round(auc(target, row), 4) for row in plain],
        "ours_minus_plain": {name: round(value, 4) for name, value in asdict(difference).items()},
    }


def plain_speed(config: TrainConfig, folder: Path, device: torch.device) -> dict[str, Any]:
    """plain_images_per_s of the plain trainer's second epoch, a worker for every core, or plain_failed, why not.

    On at most 20,000 of the same JPEGs; on a GPU with bf16 autocast and in channels_last.
    """
    export(Path(config.shards), folder / "plain", most=_PLAIN_IMAGES)
    words = _plain_words(folder / "plain", folder / "plain.csv", config.batch_size, 1e-4)
    words += ["--backbone", SHORT_NAMES.get(config.backbone, config.backbone), "--epochs", "2"]
    words += ["--workers", str(usable_cores()), "--device", device.type, *["--amp"] * (device.type == "cuda")]
    try:
        done = subprocess.run(
            [sys.executable, *words], capture_output=True, text=True, check=False, timeout=_PLAIN_SECONDS
        )
    except subprocess.TimeoutExpired:
        return {"plain_failed": f"it took more than {_PLAIN_SECONDS} s"}
    speeds = re.findall(r"([\d.]+) img/s", done.stdout)
    if done.returncode or not speeds:
        return {"plain_failed": (done.stderr.splitlines() or ["it ended without a word"])[-1]}
    return {"plain_images_per_s": float(speeds[-1])}


def _plain_words(data: Path, out: Path, batch_size: int, lr: float) -> list[str]:
    words = ["-m", "benchmarks.peers.plain_torch", "--data", str(data), "--out", str(out)]
    return [*words, "--batch-size", str(batch_size), "--lr", str(lr)]


if __name__ == "__main__":
    run_command(main)
