"""SPDL: a pipeline of threads over a folder of JPEGs; simplejpeg and OpenCV do the work, which frees the GIL.

Pixels and target, no checksums.
"""

import random
from collections.abc import Iterator
from typing import Any

import torch
from spdl.pipeline import PipelineBuilder

from benchmarks.peers import pixels
from benchmarks.peers.job import Epochs, Job


def epochs(job: Job) -> Epochs:
    """A pipeline for each epoch, a batch to a task: a task for each image costs more than its decoding."""
    samples = list(zip(*job.files(), strict=True))
    augment = pixels.augmentation(job.workload)

    def batches() -> Iterator[list[tuple[str, float]]]:
        random.shuffle(samples)
        for start in range(0, len(samples) - job.batch_size + 1, job.batch_size):
            yield samples[start : start + job.batch_size]

    def load(batch: list[tuple[str, float]]) -> tuple[torch.Tensor, torch.Tensor]:
        images = torch.empty(len(batch), job.size, job.size, 3, dtype=torch.uint8, pin_memory=job.pin)
        for image, (path, _) in zip(images.numpy(), batch, strict=True):
            image[...] = augment(pixels.decode(pixels.read(path)))
        return images, torch.tensor([target for _, target in batch])

    def epoch() -> Iterator[tuple[Any, Any]]:
        builder = PipelineBuilder().add_source(batches()).pipe(load, concurrency=job.threads).add_sink(2)
        pipeline = builder.build(num_threads=job.threads)
        with pipeline.auto_stop():
            yield from pipeline.get_iterator(timeout=60)

    while True:
        yield epoch()
