"""Streams of the small shard set, as the tests of the loaders want them."""

import hashlib
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from configs.schema import AugmentConfig, LoaderConfig
from loaders.order import Partition
from loaders.placement import open_loader
from loaders.shards import ShardSet
from loaders.stream import Batch, Request, batches, train_requests

CPU = torch.device("cpu")
# Every tier that runs without a GPU.
TIERS = {
    "host": LoaderConfig(placement="host"),
    "dali-cpu": LoaderConfig(placement="dali-cpu"),
    "host, ram": LoaderConfig(placement="host", cache="ram"),
    "dali-cpu, ram": LoaderConfig(placement="dali-cpu", cache="ram"),
}
BATCH = 16
PARTS = ("image", "meta", "target", "index", "valid")


def requests_of(
    shards: ShardSet, epochs: range = range(2), first_step: int = 0, rank: int = 0, world: int = 1
) -> Iterator[Request]:
    """Training requests of global batches of 16 over the rows outside fold 0."""
    rows = shards.train_rows(0)
    partition = Partition(samples=len(rows), batch_size=BATCH, rank=rank, world_size=world)
    return train_requests(
        rows, partition, AugmentConfig(), seed=5, size=shards.size, epochs=epochs, first_step=first_step
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
) -> Iterator[Batch]:
    """The batches of those requests, copied out of the renderer's buffers `pause` seconds after they came."""
    requests = requests_of(shards, epochs, first_step, rank, world)
    with open_loader(config, shards, shards.train_rows(0), device, threads=2) as loader:
        for batch in batches(shards, "clinical", loader.renderer(BATCH // world), requests, device):
            time.sleep(pause)
            yield replace(batch, **{name: getattr(batch, name).cpu().clone() for name in PARTS})


def digests(items: list[Batch]) -> list[str]:
    """One SHA-256 a batch, over pixels, meta, targets, indices and masks."""
    return [
        hashlib.sha256(b"".join(getattr(item, part).numpy().tobytes() for part in PARTS)).hexdigest() for item in items
    ]


def joined(parts: list[Batch]) -> Batch:
    """The global batch that the ranks' batches are slices of."""
    return replace(parts[0], **{name: torch.cat([getattr(part, name) for part in parts]) for name in PARTS})


def params_digest(requests: list[Request]) -> list[str]:
    """One SHA-256 a global batch of the parameters of the ranks' requests, in rank order."""
    arrays = [np.concatenate(parts) for parts in zip(*(vars(one.params).values() for one in requests), strict=True)]
    return [hashlib.sha256(array.tobytes()).hexdigest() for array in arrays]
