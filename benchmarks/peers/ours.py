"""Our own stream. Options: placement, cache, decode, prefetch; rank and world_size for a share of each batch.

Pixels, meta vector, target, diagnosis, index and validity; order exact, each JPEG's checksum verified.
"""

from contextlib import ExitStack
from itertools import groupby
from pathlib import Path

import numpy as np
import torch

from benchmarks.peers.job import Epochs, Job
from configs.schema import AugmentConfig, LoaderConfig
from loaders.order import Partition
from loaders.placement import open_loader
from loaders.shards import ShardSet
from loaders.stream import batches, train_requests

_BEYOND_FLIPS = ("quarter_turn", "shift_scale_rotate", "hue_saturation_value", "brightness_contrast", "coarse_dropout")
_ONLY_FLIPS = AugmentConfig(meta_dropout=0.0, **dict.fromkeys(_BEYOND_FLIPS, 0.0))
_EPOCHS = 1_000_000


def epochs(job: Job) -> Epochs:
    """One stream, cut into its epochs: the next one is being made while this one is consumed."""
    options = dict(job.options)
    rank, world_size = options.pop("rank", 0), options.pop("world_size", 1)
    device = torch.device("cuda", 0) if job.device == "cuda" else torch.device("cpu")
    with ExitStack() as opened:
        shards = ShardSet(Path(job.shards))
        rows = np.flatnonzero(shards.fold >= 0)
        partition = Partition(
            samples=len(rows), batch_size=job.batch_size * world_size, rank=rank, world_size=world_size
        )
        config = LoaderConfig(threads=job.threads, **options)
        loader = opened.enter_context(open_loader(config, shards, rows, device, threads=job.threads))
        augment = _ONLY_FLIPS if job.workload == "flips" else AugmentConfig()
        requests = train_requests(rows, partition, augment, seed=job.seed, size=shards.size, epochs=range(_EPOCHS))
        stream = batches(shards, "clinical", loader.renderer(job.batch_size), requests, device)
        for _, epoch in groupby(stream, key=lambda batch: batch.epoch):
            yield ((batch.image, batch.target) for batch in epoch)
