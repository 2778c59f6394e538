"""torch's DataLoader over a folder of JPEGs, as most notebooks have it: one sample a call, workers of its own.

Variants: pillow (Pillow decodes, OpenCV augments), opencv (simplejpeg decodes), albumentations (with that library).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from benchmarks.peers import pixels
from benchmarks.peers.job import Epochs, Job

PACKAGES = ("torch", "pillow", "simplejpeg", "opencv-python-headless", "albumentations")
CONTRACT = "pixels and target; no meta vector, no checksums; order and augmentation not repeatable across worker counts"


class Files(Dataset[Any]):
    """Pictures and targets by number."""

    def __init__(self, job: Job) -> None:
        self.paths, self.targets = job.files()
        variant = job.options["variant"]
        self.read = _pillow if variant == "pillow" else pixels.read
        self.augment = _albumentations(job) if variant == "albumentations" else pixels.augmentation(job.workload)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> tuple[torch.Tensor, float]:
        image = self.augment(self.read(self.paths[number]))
        return torch.from_numpy(np.ascontiguousarray(image)), self.targets[number]


def epochs(job: Job) -> Epochs:
    """Shuffled anew in each epoch; the workers stay."""
    options = {"batch_size": job.batch_size, "num_workers": job.threads, "pin_memory": job.pin}
    loader: DataLoader[Any] = DataLoader(Files(job), shuffle=True, drop_last=True, persistent_workers=True, **options)
    while True:
        yield loader


def _pillow(path: str) -> Any:
    with Image.open(path) as image:
        return np.array(image.convert("RGB"))


def _albumentations(job: Job) -> Callable[[Any], Any]:
    from benchmarks.peers.plain_torch import augmentations

    compose = augmentations(job.workload, seed=None)
    return lambda image: compose(image=image)["image"]
