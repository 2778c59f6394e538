"""litdata over its own chunks of JPEG bytes, with its own loader; simplejpeg decodes and OpenCV augments.

Pixels and target, no checksums.
"""

from typing import Any

import torch
from litdata import StreamingDataLoader, StreamingDataset, optimize

from benchmarks.peers import pixels
from benchmarks.peers.job import Epochs, Job


class Lesions(StreamingDataset):  # type: ignore[misc]
    """Bytes to images."""

    def __init__(self, job: Job) -> None:
        super().__init__(str(job.own), shuffle=True, drop_last=True, seed=job.seed)
        self.augment = pixels.augmentation(job.workload)

    def __getitem__(self, index: Any) -> tuple[torch.Tensor, float]:
        """Image and target."""
        sample = super().__getitem__(index)
        return pixels.tensor(self.augment(pixels.decode(sample["jpeg"]))), sample["target"]


def packed(item: tuple[str, float]) -> dict[str, Any]:
    """What is stored of a sample."""
    path, target = item
    return {"jpeg": pixels.read(path), "target": target}


def prepare(job: Job) -> None:
    """Write the chunks."""
    items = list(zip(*job.files(), strict=True))
    optimize(fn=packed, inputs=items, output_dir=str(job.own), chunk_bytes="64MB", num_workers=1)


def epochs(job: Job) -> Epochs:
    """The workers stay."""
    loader = StreamingDataLoader(Lesions(job), drop_last=True, persistent_workers=True, **job.workers)
    while True:
        yield loader
