"""Trials of the training step: one way to run and feed it, and how many images/s that gives on this machine."""

import gc
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path
from statistics import median

import numpy as np
import torch

from configs.errors import UserError
from configs.schema import LoaderConfig, ProgressiveConfig, TrainConfig
from engine.distributed import Ranks
from engine.prepare_step import Speed, blank_batch
from engine.trainer import Trainer, build_trainer
from loaders.batch import Batch
from loaders.loader import Loader
from loaders.order import Partition
from loaders.shards import ShardSet
from prep.metadata import FEATURES

_WARM_UP = 3
MIN_SPEEDUP = 1.03  # a more complicated way must be faster by this factor


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One way to run and feed the step; images_per_s is 0 if it failed, and `note` says why.

    loader: None for one batch that is already on the device; batch: samples per rank and step.
    """

    speed: Speed
    loader: LoaderConfig | None = None
    batch: int
    images_per_s: float = 0.0
    note: str = ""


class Bench:
    """What all trials share: the data, and the trainer of the one before.

    step_seconds, loader_seconds: how long a trial on a resident batch and one with a loader take, compilation and
    filling a cache not included. Each rank measures by itself, as if it were alone.
    """

    def __init__(self, config: TrainConfig, ranks: Ranks, *, step_seconds: float, loader_seconds: float) -> None:
        self._config, self._ranks = replace(config, weights="none", progressive=ProgressiveConfig()), ranks
        self._step_seconds, self._loader_seconds = step_seconds, loader_seconds
        self._shards = ShardSet(Path(config.shards))
        self._rows = self._shards.train_rows(config.fold)
        self.size = self._shards.size
        self.local_batch_size = -(-config.batch_size // ranks.world_size)
        self.trials: list[Trial] = []
        self._built: tuple[Speed, int, Trainer] | None = None

    def close(self) -> None:
        """Free the trainer, close the shard set."""
        self._built = None
        self._shards.close()

    def better(self, best: Trial, others: Iterable[Trial]) -> Trial:
        """The fastest of `best` and the others, which are measured; on every rank the first one's."""
        found = [best, *map(self.measured, others)]
        return found[self._ranks.from_first(lambda: _fastest(found))]

    def measured(self, trial: Trial) -> Trial:
        """`trial` with its speed, or with the reason why it failed."""
        try:
            trial = replace(trial, images_per_s=self._images_per_s(trial), note="")
        # Out of memory, and what CUDA, DALI and nvJPEG raise.
        except (RuntimeError, MemoryError, UserError) as error:
            memory = isinstance(error, torch.OutOfMemoryError | MemoryError)
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            trial = replace(trial, images_per_s=0.0, note=f"failed: {'out of memory' if memory else first[:200]}")
            self._built = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.trials.append(trial)
        return trial

    def _images_per_s(self, trial: Trial) -> float:
        config, batch = self._config, trial.batch
        partition = Partition(samples=len(self._rows), batch_size=batch)
        trainer = self._trainer(trial.speed, partition)
        if trial.loader is None:
            blank = blank_batch(batch, self.size, len(FEATURES[config.model.meta]), self._ranks.device)
            resident = replace(blank, image=torch.randint_like(blank.image, 256))
            return self._timed(trainer, repeat(resident), batch, self._step_seconds)
        with Loader(
            trial.loader,
            self._shards,
            np.concatenate([self._rows, self._shards.fold_rows(config.fold)]),  # a cache holds both
            self._ranks.device,
            threads=self._ranks.threads,
        ) as loader:
            stream = loader.train_batches(
                self._rows, partition, config.augment, meta=config.model.meta, seed=0, epochs=range(10**6)
            )
            return self._timed(trainer, stream, batch, self._loader_seconds)

    def _trainer(self, speed: Speed, partition: Partition) -> Trainer:
        """The trainer of the trial before if it runs the same step: compilation takes a minute."""
        if self._built is None or self._built[:2] != (speed, partition.batch_size):
            self._built = None  # frees its memory first
            alone = replace(self._ranks, world_size=1, rank=0)
            trainer = build_trainer(
                self._config, alone, size=self.size, partition=partition, positive_weight=1.0, speed=speed
            )
            if trainer.remarks:  # it would be run in another way than this one
                raise RuntimeError(trainer.remarks[0].split(", because ")[-1])
            self._built = speed, partition.batch_size, trainer
        return self._built[2]

    def _timed(self, trainer: Trainer, stream: Iterable[Batch], batch: int, seconds: float) -> float:
        """Images/s: the median over steps, on a GPU over groups of ten, waiting for the device after each."""
        group = 10 if self._ranks.device.type == "cuda" else 1
        iterator = iter(stream)
        rates: list[float] = []
        begin = time.perf_counter()
        for _ in range(_WARM_UP):
            trainer.step(next(iterator))
        while len(rates) < 3 or time.perf_counter() - begin < seconds:
            _wait(self._ranks.device)
            start = time.perf_counter()
            for _ in range(group):
                trainer.step(next(iterator))
            _wait(self._ranks.device)
            rates.append(group * batch / (time.perf_counter() - start))
        return median(rates)


def _fastest(trials: list[Trial]) -> int:
    """Index of the fastest trial; a later one, which is more complicated, must be faster by a margin."""
    best = 0
    for number, trial in enumerate(trials):
        if trial.images_per_s > MIN_SPEEDUP * trials[best].images_per_s:
            best = number
    return best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
