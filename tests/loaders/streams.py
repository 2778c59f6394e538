"""Streams of the small shard set, for the tests of the loaders."""

import hashlib
import threading
import time
from collections.abc import Generator, Iterator
from dataclasses import replace

import numpy as np
import torch

from configs.schema import AugmentConfig, LoaderConfig, ProgressiveConfig
from loaders.batch import TENSORS, Batch
from loaders.loader import Loader
from loaders.order import Partition
from loaders.request import Request, train_requests
from loaders.shards import ShardSet

CPU = torch.device("cpu")
# Every tier that runs without a GPU.
TIERS = {
    "host": LoaderConfig(placement="host"),
    "dali-cpu": LoaderConfig(placement="dali-cpu"),
    "host, ram": LoaderConfig(placement="host", cache="ram"),
    "dali-cpu, ram": LoaderConfig(placement="dali-cpu", cache="ram"),
}
# The tier whose pixels are kept on the GPU; see cpu_as_gpu.
KEPT = LoaderConfig(cache="gpu", decode="cpu")
BATCH = 16


def cpu_as_gpu(config: LoaderConfig, _: torch.device) -> tuple[str, str]:
    """In place of loaders.placement.chosen_placement: the CPU is the GPU on which KEPT keeps pixels."""
    return ("dali-gpu" if config.cache == "gpu" else config.placement), ""


def our_threads() -> list[str]:
    """The names of the threads that loaders and their streams have started."""
    names = ("renderer", "epoch-order", "params-drawn")
    return [one.name for one in threading.enumerate() if any(name in one.name for name in names)]


def requests_of(
    shards: ShardSet, epochs: range = range(2), first_step: int = 0, rank: int = 0, world: int = 1
) -> Iterator[Request]:
    """Training requests of global batches of 16 over the rows outside fold 0."""
    rows, size = shards.train_rows(0), shards.size
    partition = partition_of(shards, rank, world)
    return train_requests(rows, partition, AugmentConfig(), seed=5, size=size, epochs=epochs, first_step=first_step)


def partition_of(shards: ShardSet, rank: int = 0, world: int = 1) -> Partition:
    return Partition(samples=len(shards.train_rows(0)), batch_size=BATCH, rank=rank, world_size=world)


def train_batches(
    loader: Loader,
    shards: ShardSet,
    epochs: range = range(2),
    first_step: int = 0,
    rank: int = 0,
    world: int = 1,
    augment: AugmentConfig | None = None,
) -> Generator[Batch]:
    """The batches of those requests, in the loader's own buffers."""
    partition = partition_of(shards, rank, world)
    return loader.train_batches(
        shards.train_rows(0), partition, augment or AugmentConfig(), seed=5, epochs=epochs, first_step=first_step
    )


def stream(
    shards: ShardSet,
    config: LoaderConfig,
    epochs: range = range(2),
    first_step: int = 0,
    rank: int = 0,
    world: int = 1,
    device: torch.device = CPU,
    pause: float = 0.0,
    augment: AugmentConfig | None = None,
    progressive: ProgressiveConfig | None = None,
) -> Iterator[Batch]:
    """The same batches, copied out of the loader's buffers `pause` seconds after they arrive."""
    with Loader(config, shards, shards.train_rows(0), device, threads=2, progressive=progressive) as loader:
        for batch in train_batches(loader, shards, epochs, first_step, rank, world, augment):
            time.sleep(pause)
            yield replace(batch, **{name: getattr(batch, name).cpu().clone() for name in TENSORS})


def digests(items: list[Batch]) -> list[str]:
    """One SHA-256 per batch, over every field."""
    return [
        hashlib.sha256(
            b"".join(
                [f"{item.epoch} {item.step}".encode(), *(getattr(item, name).numpy().tobytes() for name in TENSORS)]
            )
        ).hexdigest()
        for item in items
    ]


def joined(parts: list[Batch]) -> Batch:
    """The global batch that the ranks' batches are slices of."""
    return replace(parts[0], **{name: torch.cat([getattr(part, name) for part in parts]) for name in TENSORS})


def counted(batch: Batch) -> Batch:
    """The rows of a batch that count."""
    return replace(batch, **{name: getattr(batch, name)[batch.valid] for name in TENSORS})


def counted_digest(requests: list[Request]) -> str:
    """One SHA-256 over what counts of a global batch: position, samples and their parameters, in rank order."""
    columns = [[one.index[one.valid], *(array[one.valid] for array in vars(one.params).values())] for one in requests]
    arrays = [np.concatenate(parts) for parts in zip(*columns, strict=True)]
    position = f"{requests[0].epoch} {requests[0].step}".encode()
    return hashlib.sha256(b"".join([position, *(array.tobytes() for array in arrays)])).hexdigest()


def params_digest(requests: list[Request]) -> list[str]:
    """One SHA-256 per array of the parameters of the ranks' requests, in rank order."""
    arrays = [np.concatenate(parts) for parts in zip(*(vars(one.params).values() for one in requests), strict=True)]
    return [hashlib.sha256(array.tobytes()).hexdigest() for array in arrays]
