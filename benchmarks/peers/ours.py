"""Our own stream. Options: placement, cache, decode, prefetch; rank and world_size for a share of each batch.

Pixels, meta vector, target, diagnosis, index and validity; order exact, each JPEG's checksum verified.
"""

from itertools import groupby
from pathlib import Path

import numpy as np
import torch

from benchmarks.peers.job import Epochs, Job
from configs.schema import AugmentConfig, LoaderConfig
from loaders.loader import Loader
from loaders.order import Partition
from loaders.shards import ShardSet

_BEYOND_FLIPS = ("quarter_turn", "shift_scale_rotate", "hue_saturation_value", "brightness_contrast", "coarse_dropout")
_ONLY_FLIPS = AugmentConfig(meta_dropout=0.0, **dict.fromkeys(_BEYOND_FLIPS, 0.0))
_EPOCHS = 1_000_000


def epochs(job: Job) -> Epochs:
    """One stream, cut into its epochs: the next one is being made while this one is consumed."""
    options = dict(job.options)
    rank, world_size = options.pop("rank", 0), options.pop("world_size", 1)
    device = torch.device("cuda", 0) if job.device == "cuda" else torch.device("cpu")
    shards = ShardSet(Path(job.shards))
    rows = np.flatnonzero(shards.fold >= 0)
    partition = Partition(samples=len(rows), batch_size=job.batch_size * world_size, rank=rank, world_size=world_size)
    augment = _ONLY_FLIPS if job.workload == "flips" else AugmentConfig()
    with Loader(LoaderConfig(**options), shards, rows, device, threads=job.threads) as loader:
        stream = loader.train_batches(rows, partition, augment, seed=job.seed, epochs=range(_EPOCHS))
        for _, epoch in groupby(stream, key=lambda batch: batch.epoch):
            yield ((batch.image, batch.target) for batch in epoch)
