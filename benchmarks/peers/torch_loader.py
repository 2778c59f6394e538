"""torch's DataLoader over a folder of JPEGs, as most notebooks have it: one sample a call, workers of its own.

Pixels and target; no meta vector, no checksums; order and augmentation not repeatable across worker counts. Variants:
pillow (Pillow decodes, OpenCV augments), opencv (simplejpeg decodes), albumentations (with that library).
"""

from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks.peers import pixels
from benchmarks.peers.job import Epochs, Job


class Files(Dataset[Any]):
    """Images and targets by number."""

    def __init__(self, job: Job) -> None:
        self.paths, self.targets = job.files()
        self.decode = pixels.pillow if job.options["variant"] == "pillow" else pixels.decode
        self.augment = pixels.augmentation(job.workload)
        if job.options["variant"] == "albumentations":
            from benchmarks.peers.plain_torch import augmentations

            compose = augmentations(job.workload, seed=None)
            self.augment = lambda image: compose(image=image)["image"]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> tuple[torch.Tensor, float]:
        image = self.augment(self.decode(pixels.read(self.paths[number])))
        return pixels.tensor(image), self.targets[number]


def epochs(job: Job) -> Epochs:
    """Shuffled anew in each epoch; the workers stay."""
    loader: Any = DataLoader(Files(job), shuffle=True, drop_last=True, persistent_workers=True, **job.workers)
    while True:
        yield loader
