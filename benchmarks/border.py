"""Which border of the augmentation trains best: the same members with a black, a repeated and a mirrored one.

    python -m benchmarks.border --shards shards/sample128 --weights tf_efficientnet_lite0.safetensors --minutes 50

The borders of a seed and fold are trained one after the other, then the next fold's. Finished members are skipped, and
one that the time cuts off goes on from its last step: the same command continues. Seeds that are complete are judged.
"""

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd

from benchmarks.record import write
from configs.cli import parse, run_command
from configs.errors import UserError, check_ranges, ranged
from configs.grid import parse_grid
from configs.schema import Border, TrainConfig
from engine.distributed import Ranks, joined_ranks
from engine.records import member_folder
from engine.run import is_finished
from evaluation.bootstrap import auc_difference_over_seeds, auc_statistic, estimated
from evaluation.discrimination import Estimate
from loaders.shards import ShardSet

_WHAT = (
    "The same members, folds, seeds and epochs with each border: AUC after the last epoch, pooled out of fold, with "
    "95 % intervals: of each border the mean over the seeds, its interval over groups; of the differences over groups "
    "and seeds, and where that holds zero, the two are not told apart"
)
BORDERS: tuple[Border, ...] = get_args(Border)
_USUAL: Border = "constant"
_SOURCES = {"merged": (2019, 2020), "2020 only": (2020,), "2019 only": (2019,)}
Scores = dict[Border, npt.NDArray[np.float64]]


@dataclass(frozen=True, kw_only=True)
class BorderBenchmarkConfig:
    """What `python -m benchmarks.border` is asked for."""

    shards: str = "shards/sample128"
    """Folder of the shard set, whose images have the size that is trained."""
    backbone: str = "tf_efficientnet_lite0"
    """As in train.py."""
    weights: str = "auto"
    """As in train.py: the pretrained weights."""
    runs: str = "runs/border"
    """Folder of everything that is trained."""
    seeds: int = ranged(3, low=1)
    """Seeds of each border and fold (1 or more)."""
    folds: int = ranged(0, low=0)
    """How many of the folds, the first ones; 0 means all."""
    epochs: int = ranged(3, low=1)
    """Epochs of each member (1 or more)."""
    batch_size: int = ranged(64, low=2)
    """Samples per step (2 or more)."""
    lr: float = 5e-4
    """Peak learning rate."""
    minutes: float = ranged(0.0, low=0)
    """Time after which the member in training is saved and the command ends; 0 means no limit."""
    out: str = "benchmarks/results/border.json"
    """Where the record is written."""

    def __post_init__(self) -> None:
        check_ranges(self)


def main(argv: Sequence[str]) -> None:
    """Train what is missing and fits the time; judge and record the seeds that are complete."""
    description = (__doc__ or "").split("\n")[0]
    config = parse(BorderBenchmarkConfig, argv, prog="python -m benchmarks.border", description=description)
    deadline = time.monotonic() + config.minutes * 60 if config.minutes else None
    table, size = samples(config)
    folds = sorted(table["fold"].unique().tolist())
    members = [(seed, fold, border) for seed in range(config.seeds) for fold in folds for border in BORDERS]
    with joined_ranks("auto") as ranks:
        finished = [member for member in members if trained(config, *member, ranks=ranks, deadline=deadline)]
    print(f"{len(finished)} of {len(members)} members are finished")
    seeds = [
        seed for seed in range(config.seeds) if sum(one[0] == seed for one in finished) == len(folds) * len(BORDERS)
    ]
    if not seeds:
        print("no seed has all of its members, so there is nothing to judge: the same command continues")
        return
    scores: Scores = {border: np.stack([_pooled(config, seed, border, table) for seed in seeds]) for border in BORDERS}
    record = {
        "what": _WHAT,
        "backbone": config.backbone,
        "weights": Path(config.weights).name,
        "size": size,
        "epochs": config.epochs,
        "seeds": len(seeds),
        "folds": len(folds),
        "samples": len(table),
        "melanomas": int(table["target"].sum()),
        "auc": {name: judged(table, scores, years) for name, years in _SOURCES.items()},
    }
    write(Path(config.out), record)


def samples(config: BorderBenchmarkConfig) -> tuple[pd.DataFrame, int]:
    """key, fold, source, target and group of the held-out rows; and the images' size."""
    with closing(ShardSet(Path(config.shards))) as shards:
        columns = ["key", "fold", "source", "target", "group"]
        table = pd.read_parquet(shards.folder / "samples.parquet", columns=columns)[: len(shards)]
        held_out = (table["fold"] >= 0) & ((table["fold"] < config.folds) | (config.folds == 0))
        return table[held_out].reset_index(drop=True), shards.size


def trained(
    config: BorderBenchmarkConfig, seed: int, fold: int, border: Border, *, ranks: Ranks, deadline: float | None
) -> bool:
    """Train a member until it is finished or the time is over; whether it is finished.

    Raises UserError if training fails, or if the member was trained with other settings.
    """
    member, words = _member(config, seed, fold, border)
    if is_finished(member, ranks):
        return True
    left = None if deadline is None else deadline - time.monotonic()
    if left is not None and left <= 0:
        return False
    print(f"$ python train.py {' '.join(words)}", flush=True)
    with subprocess.Popen([sys.executable, "train.py", *words]) as process:
        try:
            process.wait(left)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)  # it finishes the step and saves
            process.wait()
            return False
    if process.returncode:
        raise UserError(f"python train.py {' '.join(words)} failed: see above; finished members are kept")
    return True


def _member(config: BorderBenchmarkConfig, seed: int, fold: int, border: Border) -> tuple[TrainConfig, list[str]]:
    words = ["--shards", config.shards, "--backbone", config.backbone, "--weights", config.weights]
    words += ["--out", str(Path(config.runs, border, f"seed{seed}")), "--augment.border", border]
    words += ["--seed", str(seed), "--fold", str(fold), "--epochs", str(config.epochs), "--patience", "0"]
    words += ["--batch-size", str(config.batch_size), "--optim.lr", str(config.lr)]
    (member,) = parse_grid(words, prog="train.py", description="")
    return member, words


def _pooled(config: BorderBenchmarkConfig, seed: int, border: Border, table: pd.DataFrame) -> npt.NDArray[np.float64]:
    """The predictions of a seed after its last epoch, float64 [N], in the order of the table."""
    folders = [member_folder(_member(config, seed, fold, border)[0]) for fold in table["fold"].unique().tolist()]
    found = pd.concat([pd.read_parquet(folder / "oof.parquet") for folder in folders]).set_index("key")["pred_last"]
    pooled: npt.NDArray[np.float64] = found[table["key"]].to_numpy(np.float64)
    return pooled


def judged(table: pd.DataFrame, scores: Scores, years: tuple[int, ...]) -> dict[str, dict[str, float]]:
    """The AUC of each border over the images of some years, and how far each is above that of the black one.

    scores: float64 [S, N], seeds and rows of the table. Empty where these images are all of one class.
    """
    rows = table["source"].isin(years).to_numpy()
    target, group = table["target"].to_numpy()[rows], table["group"].to_numpy()[rows]
    if len(set(target.tolist())) < 2:
        return {}
    some = {border: each[:, rows] for border, each in scores.items()}
    found: dict[str, Estimate] = {border: _mean_auc(target, each, group) for border, each in some.items()}
    for border in BORDERS:
        if border != _USUAL:
            found[f"{border}_minus_{_USUAL}"] = auc_difference_over_seeds(target, some[border], some[_USUAL], group)
    return {name: {part: round(value, 4) for part, value in asdict(one).items()} for name, one in found.items()}


def _mean_auc(target: Any, scores: npt.NDArray[np.float64], group: Any) -> Estimate:
    each = [auc_statistic(target, row, group) for row in scores]
    (estimate,), _ = estimated([lambda times: np.mean([one(times) for one in each], axis=0)], group)
    return estimate


if __name__ == "__main__":
    run_command(main)
