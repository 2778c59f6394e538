"""webdataset over our shards, which are WebDataset shards. Variants: pillow, simplejpeg (what decodes).

Pixels, meta vector and target, no checksums; shuffled in a reservoir of 1,000; workers own shards, so that one works
alone at the end of an epoch of few shards.
"""

import io
from typing import Any

import numpy as np
import torch
import webdataset

from benchmarks.peers import pixels
from benchmarks.peers.job import Epochs, Job


class Sample:
    """From the parts of a tar to tensors; a class, because workers must be able to pickle it."""

    def __init__(self, job: Job) -> None:
        self.decode = pixels.pillow if job.options["variant"] == "pillow" else pixels.decode
        self.augment = pixels.augmentation(job.workload)

    def __call__(self, sample: dict[str, Any]) -> tuple[torch.Tensor, float, torch.Tensor]:
        """Image, target, meta."""
        image = pixels.tensor(self.augment(self.decode(sample["jpg"])))
        return image, float(sample["cls"]), torch.from_numpy(np.load(io.BytesIO(sample["npy"])))


def epochs(job: Job) -> Epochs:
    """Shards are dealt out to the workers, which shuffle the order of their own, and then samples in a reservoir."""
    tars, split = job.tars(), webdataset.split_by_worker
    dataset = webdataset.WebDataset(tars, shardshuffle=len(tars), workersplitter=split, empty_check=False)
    dataset = dataset.shuffle(1000).map(Sample(job)).batched(job.batch_size, partial=False)
    loader = webdataset.WebLoader(dataset, persistent_workers=True, **{**job.workers, "batch_size": None})
    while True:
        yield ((image, target) for image, target, _ in loader)
