"""Members that are trained to be compared: by train.py, in as many calls as it takes, then judged together."""

import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from benchmarks.record import Record
from configs.errors import UserError, check_ranges, ranged
from configs.grid import parse_grid
from configs.schema import TrainConfig
from engine.distributed import Ranks
from engine.records import member_folder
from engine.run import is_finished
from evaluation.bootstrap import auc_difference_over_seeds, auc_statistic, estimated
from evaluation.discrimination import Estimate
from loaders.shards import ShardSet

Floats = npt.NDArray[np.float64]
Name = TypeVar("Name", bound=str)
SOURCES = {"merged": (2019, 2020), "2020 only": (2020,), "2019 only": (2019,)}


@dataclass(frozen=True, kw_only=True)
class MembersConfig:
    """Which members are trained, whatever is compared."""

    shards: str = "shards/sample128"
    """Folder of the shard set, whose images have the size that is trained."""
    backbone: str = "tf_efficientnet_lite0"
    """As in train.py."""
    weights: str = "auto"
    """As in train.py: the pretrained weights."""
    runs: str = "runs/compared"
    """Folder of everything that is trained."""
    seeds: int = ranged(3, low=1)
    """Seeds of each way and fold (1 or more)."""
    folds: int = ranged(1, low=0)
    """How many of the folds, the first ones; 0 means all."""
    epochs: int = ranged(3, low=1)
    """Epochs of each member (1 or more)."""
    batch_size: int = ranged(64, low=2)
    """Samples per step (2 or more)."""
    lr: float = 5e-4
    """Peak learning rate."""
    minutes: float = ranged(0.0, low=0)
    """Time after which the member in training is saved and the command ends; 0 means no limit."""

    def __post_init__(self) -> None:
        check_ranges(self)

    def words(self, seed: int, fold: int, way: str) -> list[str]:
        """What follows train.py, but for what makes this way differ from the others."""
        words = ["--shards", self.shards, "--backbone", self.backbone, "--weights", self.weights]
        words += ["--out", str(Path(self.runs, way, f"seed{seed}"))]
        words += ["--seed", str(seed), "--fold", str(fold), "--epochs", str(self.epochs), "--patience", "0"]
        return [*words, "--batch-size", str(self.batch_size), "--optim.lr", str(self.lr)]

    def deadline(self) -> float | None:
        """When to stop, by time.monotonic()."""
        return time.monotonic() + self.minutes * 60 if self.minutes else None

    def described(self, table: pd.DataFrame, size: int, seeds: int) -> Record:
        """For a record: what was trained with how many seeds, and the held-out rows of `held_out`."""
        return {
            "backbone": self.backbone,
            "weights": Path(self.weights).name,
            "size": size,
            "epochs": self.epochs,
            "seeds": seeds,
            "folds": table["fold"].nunique(),
            "samples": len(table),
            "melanomas": int(table["target"].sum()),
        }


class Trained(NamedTuple):
    """Whether a member is finished, and the seconds that this call has trained it."""

    finished: bool
    seconds: float


def held_out(shards: str, folds: int) -> tuple[pd.DataFrame, int]:
    """key, fold, source, target and group of the held-out rows of the first `folds` folds (0: of all); and the images'
    size."""
    with closing(ShardSet(Path(shards))) as opened:
        columns = ["key", "fold", "source", "target", "group"]
        table = pd.read_parquet(opened.folder / "samples.parquet", columns=columns)[: len(opened)]
        wanted = (table["fold"] >= 0) & ((table["fold"] < folds) | (folds == 0))
        return table[wanted].reset_index(drop=True), opened.size


def member_of(words: Sequence[str]) -> TrainConfig:
    """The one member that `python train.py WORDS` trains."""
    (member,) = parse_grid(words, prog="train.py", description="")
    return member


def train_until(words: Sequence[str], ranks: Ranks, deadline: float | None) -> Trained:
    """Train a member until it is finished or time.monotonic() is `deadline`; then it is saved.

    Raises UserError if training fails, or if the member was trained with other settings.
    """
    if is_finished(member_of(words), ranks):
        return Trained(finished=True, seconds=0.0)
    left = None if deadline is None else deadline - time.monotonic()
    if left is not None and left <= 0:
        return Trained(finished=False, seconds=0.0)
    print(f"$ python train.py {' '.join(words)}", flush=True)
    begin = time.perf_counter()
    with subprocess.Popen([sys.executable, "train.py", *words]) as process:
        try:
            process.wait(left)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)  # it finishes the step and saves
            process.wait()
            return Trained(finished=False, seconds=time.perf_counter() - begin)
    if process.returncode:
        raise UserError(f"python train.py {' '.join(words)} failed: see above; finished members are kept")
    return Trained(finished=True, seconds=time.perf_counter() - begin)


def pooled(folds: Sequence[Sequence[str]], table: pd.DataFrame) -> Floats:
    """The predictions of members after their last epoch, float64 [N], in the order of the table; `folds` are the words
    of the member of each fold."""
    folders = [member_folder(member_of(words)) for words in folds]
    found = pd.concat([pd.read_parquet(folder / "oof.parquet") for folder in folders]).set_index("key")["pred_last"]
    ordered: Floats = found[table["key"]].to_numpy(np.float64)
    return ordered


def compared(
    table: pd.DataFrame, scores: Mapping[Name, Floats], years: tuple[int, ...], *, usual: Name
) -> dict[str, dict[str, float]]:
    """The AUC of each way to train over the images of some years, and how far each is above that of the `usual` one.

    scores: float64 [S, N], seeds and rows of the table. Empty where these images are all of one class.
    """
    rows = table["source"].isin(years).to_numpy()
    target, group = table["target"].to_numpy()[rows], table["group"].to_numpy()[rows]
    if len(set(target.tolist())) < 2:
        return {}
    some = {name: each[:, rows] for name, each in scores.items()}
    found: dict[str, Estimate] = {name: _mean_auc(target, each, group) for name, each in some.items()}
    for name in some:
        if name != usual:
            found[f"{name}_minus_{usual}"] = auc_difference_over_seeds(target, some[name], some[usual], group)
    return {name: {part: round(value, 4) for part, value in asdict(one).items()} for name, one in found.items()}


def _mean_auc(target: npt.ArrayLike, scores: Floats, group: npt.ArrayLike) -> Estimate:
    each = [auc_statistic(target, row, group) for row in scores]
    (estimate,), _ = estimated([lambda times: np.mean([one(times) for one in each], axis=0)], group)
    return estimate
