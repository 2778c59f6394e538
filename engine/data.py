"""What a run trains on and is evaluated on: which samples, how the ranks share them, and their batches."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from configs.errors import UserError
from configs.schema import LoaderConfig, TrainConfig
from engine.distributed import Ranks
from engine.state import RunState
from loaders.batch import Batch
from loaders.loader import Loader
from loaders.order import Indices, Partition
from loaders.shards import ShardSet, check_and_write


@dataclass(frozen=True, kw_only=True)
class Samples:
    """The training rows and the held-out rows of a fold, int64, and how the ranks share the batches of the former.

    positive_weight: weight of a melanoma in the loss.
    """

    shards: ShardSet
    train_rows: Indices
    fold_rows: Indices
    partition: Partition
    positive_weight: float


@dataclass(frozen=True, kw_only=True)
class Data:
    """The batches of a run: the training stream from its cursor on, and the held-out fold without augmentation."""

    config: TrainConfig
    samples: Samples
    loader: Loader
    stream: Iterator[Batch]

    def train_batches(self, state: RunState) -> Iterator[Batch]:
        """The remaining batches of this epoch; meanwhile the stream already prepares those of the next one."""
        for _ in range(state.step, self.samples.partition.steps):
            yield next(self.stream)

    def fold_batches(self) -> Iterator[Batch]:
        """The batches of the held-out fold; every rank gets the same number of them."""
        rows = self.samples.fold_rows
        partition = replace(self.samples.partition, samples=len(rows))
        return self.loader.eval_batches(rows, partition, meta=[self.config.model.meta])


@contextmanager
def open_shards(folder: Path, ranks: Ranks) -> Iterator[ShardSet]:
    """The shard set, checked by one rank of each machine. Raises UserError if something is wrong with it."""
    columns = ranks.from_first_here(lambda: check_and_write(folder))
    try:
        shards = ShardSet(folder, columns)
        ranks.all_of(True)  # all have mapped it
    finally:
        if ranks.local_rank == 0:
            columns.unlink()
    with closing(shards):
        yield shards


@contextmanager
def open_samples(config: TrainConfig, ranks: Ranks) -> Iterator[Samples]:
    """Open the shard set and choose the rows. Raises UserError if no run is possible with them."""
    with open_shards(Path(config.shards), ranks) as shards:
        _check_size(config, shards.size)
        fold_rows, train_rows = shards.fold_rows(config.fold), shards.train_rows(config.fold)
        if config.train_sources != "all":
            train_rows = train_rows[shards.source[train_rows] == int(config.train_sources)]
        partition = Partition(
            samples=len(train_rows), batch_size=config.batch_size, rank=ranks.rank, world_size=ranks.world_size
        )
        _check_batch(config, ranks, partition.local_batch_size)
        if config.fold is not None:
            year = config.monitor.removeprefix("auc_")
            monitored = fold_rows[shards.source[fold_rows] == int(year)] if year.isdigit() else fold_rows
            _balance(shards, monitored, f"the held-out rows of fold {config.fold}")
        balance = _balance(shards, train_rows, f"the training rows of fold {config.fold_word}")
        yield Samples(
            shards=shards,
            train_rows=train_rows,
            fold_rows=fold_rows,
            partition=partition,
            positive_weight=config.optim.positive_weight or balance,
        )


@contextmanager
def open_data(
    config: TrainConfig, ranks: Ranks, samples: Samples, loader_config: LoaderConfig, state: RunState
) -> Iterator[Data]:
    """Open the loader with `loader_config`, its training stream at the cursor of `state`."""
    with Loader(
        loader_config,
        samples.shards,
        np.concatenate([samples.train_rows, samples.fold_rows]),
        ranks.device,
        threads=ranks.threads,
        ranks_here=ranks.local_world_size,
        images=config.model.inputs != "meta",
        progressive=config.progressive,
    ) as loader:
        stream = loader.train_batches(
            samples.train_rows,
            samples.partition,
            config.augment,
            meta=config.model.meta,
            seed=config.seed,
            epochs=range(state.epoch, config.epochs),
            first_step=state.step,
        )
        yield Data(config=config, samples=samples, loader=loader, stream=stream)


def _check_batch(config: TrainConfig, ranks: Ranks, local: int) -> None:
    if local < 2 * config.accumulate:
        raise UserError(
            f"batch_size={config.batch_size} gives each rank {local} samples in {config.accumulate} part(s), fewer "
            "than 2 per part: give a larger --batch-size or a smaller --accumulate"
        )
    if local % config.accumulate and config.batch_size % ranks.world_size == 0:
        raise UserError(
            f"accumulate={config.accumulate} cannot split a rank's {local} samples into equal parts: give a divisor"
        )
    if config.sync_batchnorm and ranks.device.type != "cuda":
        raise UserError("sync_batchnorm=True needs GPUs, because torch supports it on CUDA only: leave it out")


def _check_size(config: TrainConfig, full: int) -> None:
    size, least = config.progressive.size, -(-full // 8)  # an eighth is the smallest scale of libjpeg-turbo
    if config.progressive.epochs and not least <= size < full:
        raise UserError(
            f"progressive.size={size} does not fit the {full} px of {config.shards}: give {max(32, least)} to "
            f"{full - 1}, or --progressive.epochs 0"
        )


def _balance(shards: ShardSet, rows: Indices, what: str) -> float:
    """Negatives per positive among `rows`. Raises UserError if one of the classes is missing."""
    positives = int((shards.target[rows] == 1).sum())
    negatives = len(rows) - positives
    if not positives or not negatives:
        raise UserError(
            f"{what} contain {positives} melanomas and {negatives} others, but loss and AUC need both: choose another "
            "fold, or build the shard set with more images or fewer folds"
        )
    return negatives / positives
