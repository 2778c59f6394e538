"""Which border of the augmentation trains best, and do colours as strong as the reference's: members with each.

    python -m benchmarks.border --shards shards/sample128 --weights tf_efficientnet_lite0.safetensors --minutes 50

The members of a seed and fold are trained one after the other, then the next fold's. Finished ones are skipped, and
one that the time cuts off goes on from its last step: the same command continues. Seeds that are complete are judged.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import get_args

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from benchmarks.members import SOURCES, MembersConfig, compared, held_out, pooled, train_until
from benchmarks.record import write
from benchmarks.rounds import Spread, in_turns, ratios, spread
from configs.cli import parse, run_command
from configs.machine import usable_cores
from configs.schema import AugmentConfig, Border, LoaderConfig
from engine.distributed import joined_ranks
from loaders.batch import Batch
from loaders.loader import Loader
from loaders.order import Partition
from loaders.shards import ShardSet

_WHAT = (
    "The same members, folds, seeds and epochs with each border, and with the black one and colours that change "
    "pictures as much as the reference's: AUC after the last epoch, pooled out of fold, with 95 % intervals: the mean "
    "over the seeds, its interval over groups; of the differences over groups and seeds, and where that holds zero, "
    "the two are not told apart. Cost: a training stream's time per image without a model, as a multiple of that with "
    "the black border, in turns"
)
BORDERS: tuple[Border, ...] = get_args(Border)
_USUAL: Border = "constant"
WAYS: dict[str, list[str]] = {border: ["--augment.border", border] for border in BORDERS}
WAYS |= {"colours": ["--augment.hue", "26", "--augment.saturation", "0.48"]}  # docs/augmentation.md
_IMAGES, _ROUNDS, _MANY_EPOCHS = 2048, 9, 1_000_000  # images of a turn
Scores = dict[str, npt.NDArray[np.float64]]


@dataclass(frozen=True, kw_only=True)
class BorderBenchmarkConfig(MembersConfig):
    """What `python -m benchmarks.border` is asked for."""

    runs: str = "runs/border"
    """Folder of everything that is trained."""
    out: str = "benchmarks/results/border.json"
    """Where the record is written."""


def main(argv: Sequence[str]) -> None:
    """Train what is missing and fits the time; judge and record the seeds that are complete."""
    description = (__doc__ or "").split("\n")[0]
    config = parse(BorderBenchmarkConfig, argv, prog="python -m benchmarks.border", description=description)
    deadline = config.deadline()
    table, size = held_out(config.shards, config.folds)
    folds = sorted(table["fold"].unique().tolist())
    members = [(seed, fold, way) for seed in range(config.seeds) for fold in folds for way in WAYS]
    with joined_ranks("auto") as ranks:
        finished = [one for one in members if train_until(_words(config, *one), ranks, deadline).finished]
    print(f"{len(finished)} of {len(members)} members are finished")
    seeds = [seed for seed in range(config.seeds) if sum(one[0] == seed for one in finished) == len(folds) * len(WAYS)]
    if not seeds:
        print("no seed has all of its members, so there is nothing to judge: the same command continues")
        return
    scores: Scores = {
        way: np.stack([pooled([_words(config, seed, fold, way) for fold in folds], table) for seed in seeds])
        for way in WAYS
    }
    record = {
        "what": _WHAT,
        **config.described(table, size, len(seeds)),
        "auc": {name: judged(table, scores, years) for name, years in SOURCES.items()},
        "cost": costs(config),
    }
    write(Path(config.out), record)


def _words(config: BorderBenchmarkConfig, seed: int, fold: int, way: str) -> list[str]:
    return [*config.words(seed, fold, way), *WAYS[way]]


def judged(table: pd.DataFrame, scores: Scores, years: tuple[int, ...]) -> dict[str, dict[str, float]]:
    """The AUC of each way over the images of some years, and how far each is above that with the black border."""
    return compared(table, scores, years, usual=_USUAL)


def costs(config: BorderBenchmarkConfig) -> dict[Border, Spread]:
    """The time per image of the loader alone with each border, as a multiple of that with the black one."""
    with ExitStack() as opened:
        shards = opened.enter_context(closing(ShardSet(Path(config.shards))))
        rows, device = shards.train_rows(0), torch.device("cuda" if torch.cuda.is_available() else "cpu")
        partition = Partition(samples=len(rows), batch_size=config.batch_size)

        def turns(border: Border) -> Callable[[], float]:
            loader = opened.enter_context(Loader(LoaderConfig(), shards, rows, device, threads=usable_cores()))
            stream = loader.train_batches(
                rows, partition, AugmentConfig(border=border), seed=0, epochs=range(_MANY_EPOCHS)
            )
            return lambda: _seconds(stream, -(-_IMAGES // config.batch_size))

        contenders = {border: turns(border) for border in BORDERS}
        in_turns(contenders, 1)  # warm
        found = in_turns(contenders, _ROUNDS)
    return {border: spread(ratios(found[border], found[_USUAL])) for border in BORDERS if border != _USUAL}


def _seconds(stream: Iterator[Batch], batches: int) -> float:
    begin = time.perf_counter()
    for _ in islice(stream, batches):
        pass
    return time.perf_counter() - begin


if __name__ == "__main__":
    run_command(main)
