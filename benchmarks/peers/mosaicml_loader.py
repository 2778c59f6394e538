"""mosaicml-streaming over its own MDS shards of JPEG bytes; simplejpeg decodes and OpenCV augments.

Pixels and target, no checksums.
"""

from typing import Any

import torch
from streaming import MDSWriter, StreamingDataset
from streaming.base.util import clean_stale_shared_memory
from torch.utils.data import DataLoader

from benchmarks.peers import pixels
from benchmarks.peers.job import Epochs, Job


class Lesions(StreamingDataset):  # type: ignore[misc]
    """Bytes to images."""

    def __init__(self, job: Job) -> None:
        super().__init__(local=str(job.own), shuffle=True, batch_size=job.batch_size, shuffle_seed=job.seed)
        self.augment = pixels.augmentation(job.workload)

    def __getitem__(self, index: Any) -> tuple[torch.Tensor, float]:
        """Image and target."""
        sample = super().__getitem__(index)
        return pixels.tensor(self.augment(pixels.decode(sample["jpeg"]))), sample["target"]


def prepare(job: Job) -> None:
    """Write the shards."""
    with MDSWriter(out=str(job.own), columns={"jpeg": "bytes", "target": "float64"}) as writer:
        for path, target in zip(*job.files(), strict=True):
            writer.write({"jpeg": pixels.read(path), "target": target})


def epochs(job: Job) -> Epochs:
    """The workers stay."""
    clean_stale_shared_memory()  # of a run that was killed
    loader: Any = DataLoader(Lesions(job), drop_last=True, persistent_workers=True, **job.workers)
    while True:
        yield loader
