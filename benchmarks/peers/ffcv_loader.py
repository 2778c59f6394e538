"""FFCV over its own file. Variants: jpg (JPEGs, encoded anew), raw (pixels, eight times the bytes).

Pixels and target; flips left-right only; rotation, scaling and hue are not FFCV's: the full augmentation is OpenCV's.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from ffcv.fields import FloatField, RGBImageField
from ffcv.fields.decoders import FloatDecoder, SimpleRGBImageDecoder
from ffcv.loader import Loader, OrderOption
from ffcv.pipeline.operation import Operation
from ffcv.transforms import RandomHorizontalFlip, ToDevice, ToTensor
from ffcv.writer import DatasetWriter

from benchmarks.peers import pixels
from benchmarks.peers.job import Epochs, Job

_QUALITY = 96  # that of the shards: FFCV decodes and encodes anew


class Images:
    """Decoded images and targets, to be written."""

    def __init__(self, job: Job) -> None:
        self.paths, self.targets = job.files()

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> tuple[Any, float]:
        return pixels.decode(pixels.read(self.paths[number])), self.targets[number]


class Augment(torch.nn.Module):
    """The whole augmentation, on threads, for a batch that FFCV has decoded: a part of it to each thread."""

    def __init__(self, threads: int) -> None:
        super().__init__()
        self._threads, self._pool = threads, ThreadPoolExecutor(threads)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 [b, H, W, 3] -> the same, augmented in place."""

        def augment(part: Any) -> None:
            for image in part:
                image[...] = pixels.full(image)

        list(self._pool.map(augment, [images.numpy()[first :: self._threads] for first in range(self._threads)]))
        return images


def prepare(job: Job) -> None:
    """Write the .beton file."""
    mode = job.options["variant"]
    fields = {"image": RGBImageField(write_mode=mode, jpeg_quality=_QUALITY), "target": FloatField()}
    DatasetWriter(str(job.own / "data.beton"), fields, num_workers=job.threads).from_indexed_dataset(Images(job))


def epochs(job: Job) -> Epochs:
    """In a random order."""
    image: list[Operation] = [SimpleRGBImageDecoder()]
    image += [RandomHorizontalFlip(), ToTensor()] if job.workload == "flips" else [ToTensor(), Augment(job.threads)]
    target: list[Operation] = [FloatDecoder(), ToTensor()]
    if job.device == "cuda":
        for operations in (image, target):
            operations.append(ToDevice(torch.device("cuda", 0), non_blocking=True))
    loader = Loader(
        str(job.own / "data.beton"), batch_size=job.batch_size, num_workers=job.threads, order=OrderOption.RANDOM,
        pipelines={"image": image, "target": target}, drop_last=True, seed=job.seed,
        os_cache=True,
    )  # fmt: skip
    while True:
        yield loader
