"""What smaller images in the first epochs save and cost: the same members with and without them, one after the other.

    python -m benchmarks.progressive --shards shards/sample256 --weights tf_efficientnet_lite0.safetensors --minutes 50

Finished members are skipped, and one that the time cuts off goes on from its last step: the same command continues.
Seeds that are complete are judged. Wall times are those of `python train.py` from start to end, evaluation included; a
member that is trained in pieces counts the start of each.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.members import SOURCES, MembersConfig, compared, held_out, pooled, train_until
from benchmarks.record import write
from configs.cli import parse, run_command
from configs.errors import ranged
from engine.distributed import joined_ranks

_WHAT = (
    "The same members, folds, seeds and epochs with all images of the full size, and with smaller ones in the first "
    "epochs: seconds of train.py of each member and the share saved over all of them; AUC after the last epoch, pooled "
    "out of fold, with 95 % intervals, of the difference over groups and seeds: where that holds zero, the two are not "
    "told apart"
)
WAYS = ("full", "progressive")


@dataclass(frozen=True, kw_only=True)
class ProgressiveBenchmarkConfig(MembersConfig):
    """What `python -m benchmarks.progressive` is asked for."""

    shards: str = "shards/sample256"
    """Folder of the shard set, whose images have the full size."""
    runs: str = "runs/progressive"
    """Folder of everything that is trained."""
    seeds: int = ranged(1, low=1)
    """Seeds of each way and fold (1 or more)."""
    epochs: int = ranged(4, low=2)
    """Epochs of each member (2 or more)."""
    smaller: int = ranged(3, low=1)
    """--progressive.epochs of the progressive ones."""
    size: int = ranged(160, low=32)
    """--progressive.size of the progressive ones."""
    out: str = "benchmarks/results/progressive.json"
    """Where the record is written."""


def main(argv: Sequence[str]) -> None:
    """Train what is missing and fits the time; judge and record the seeds that are complete."""
    description = (__doc__ or "").split("\n")[0]
    config = parse(ProgressiveBenchmarkConfig, argv, prog="python -m benchmarks.progressive", description=description)
    deadline = config.deadline()
    table, size = held_out(config.shards, config.folds)
    folds = sorted(table["fold"].unique().tolist())
    seconds: dict[tuple[int, int, str], float] = {}
    with joined_ranks("auto") as ranks:
        for seed in range(config.seeds):
            for fold in folds:
                # Which way is first alternates, so that a machine that becomes slower or faster favours neither.
                for way in WAYS if (seed + fold) % 2 == 0 else WAYS[::-1]:
                    trained = train_until(_words(config, seed, fold, way), ranks, deadline)
                    spent = _spent(config, seed, fold, way, trained.seconds)
                    if trained.finished:
                        seconds[seed, fold, way] = spent
    print(f"{len(seconds)} of {config.seeds * len(folds) * len(WAYS)} members are finished")
    seeds = [
        seed for seed in range(config.seeds) if all((seed, fold, way) in seconds for fold in folds for way in WAYS)
    ]
    if not seeds:
        print("no seed has all of its members, so there is nothing to judge: the same command continues")
        return
    each = {way: [round(seconds[seed, fold, way], 1) for seed in seeds for fold in folds] for way in WAYS}
    saved = [1 - less / full for full, less in zip(each["full"], each["progressive"], strict=True)]
    scores = {
        way: np.stack([pooled([_words(config, seed, fold, way) for fold in folds], table) for seed in seeds])
        for way in WAYS
    }
    record = {
        "what": _WHAT,
        **config.described(table, size, len(seeds)),
        "smaller_size": config.size,
        "smaller_epochs": config.smaller,
        "seconds": {way: round(sum(each[way]), 1) for way in WAYS},
        "saved": {
            "value": round(1 - sum(each["progressive"]) / sum(each["full"]), 3),
            "least": round(min(saved), 3),
            "most": round(max(saved), 3),
        },
        "auc": {name: compared(table, scores, years, usual="full") for name, years in SOURCES.items()},
    }
    write(Path(config.out), record)


def _words(config: ProgressiveBenchmarkConfig, seed: int, fold: int, way: str) -> list[str]:
    words = config.words(seed, fold, way)
    if way == "progressive":
        words += ["--progressive.epochs", str(config.smaller), "--progressive.size", str(config.size)]
    return words


def _spent(config: ProgressiveBenchmarkConfig, seed: int, fold: int, way: str, more: float) -> float:
    """The seconds that a member has been trained in this call and those before; kept beside the runs."""
    path = Path(config.runs, way, f"seed{seed}", f"seconds{fold}.json")
    spent = more + (float(json.loads(path.read_text())) if path.is_file() else 0.0)
    if more:
        path.write_text(json.dumps(spent))
    return spent


if __name__ == "__main__":
    run_command(main)
