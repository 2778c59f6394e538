"""DALI as its documentation has it: its own webdataset reader, its own operators, its iterator for torch."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nvidia.dali.fn as fn
from nvidia.dali import pipeline_def
from nvidia.dali.plugin.base_iterator import LastBatchPolicy
from nvidia.dali.plugin.pytorch import DALIGenericIterator

from benchmarks.peers.job import Epochs, Job

CONTRACT = "pixels and target; shuffled in a reservoir of 1,000; no stand-in for a damaged JPEG, no checksums"


@pipeline_def
def pipeline(job: Job, device: str) -> Any:
    """Images uint8 [size, size, 3] and targets."""
    tars = job.tars()
    index = [str(Path(tar).with_suffix(".idx")) for tar in tars]
    jpegs, target = fn.readers.webdataset(
        paths=tars,
        index_paths=index,
        ext=["jpg", "cls"],
        random_shuffle=True,
        initial_fill=1000,
        missing_component_behavior="error",
        name="reader",
    )
    images = fn.decoders.image(jpegs, device="mixed" if device == "gpu" else "cpu")
    images = fn.flip(images, horizontal=fn.random.coin_flip(), vertical=fn.random.coin_flip())
    if job.workload == "full":
        images = _augmented(images, job.size)
    return images, fn.reshape(target, shape=[-1]) - ord("0")  # the file holds a digit


def _augmented(images: Any, size: int) -> Any:
    uniform, sometimes = fn.random.uniform, fn.random.coin_flip
    turn = uniform(range=[-45.0, 45.0]) * sometimes() + 90.0 * sometimes()
    matrix = fn.transforms.rotation(angle=turn, center=[size / 2, size / 2])
    stretch = 1.0 + uniform(range=[-0.1, 0.1]) * sometimes()
    matrix = fn.transforms.scale(matrix, scale=fn.stack(stretch, stretch), center=[size / 2, size / 2])
    matrix = fn.transforms.translation(matrix, offset=uniform(range=[-0.06 * size, 0.06 * size], shape=[2]))
    images = fn.warp_affine(images, matrix=matrix, fill_value=0, inverse_map=False)
    images = fn.color_twist(
        images,
        hue=uniform(range=[-20.0, 20.0]) * sometimes(),
        saturation=1.0 + uniform(range=[-0.12, 0.12]) * sometimes(),
        brightness=1.0 + uniform(range=[-0.2, 0.2]) * sometimes(),
        contrast=1.0 + uniform(range=[-0.2, 0.2]) * sometimes(),
    )
    corner, shape = uniform(range=[0.0, 0.9], shape=[16]), uniform(range=[0.05, 0.1], shape=[16])
    return fn.erase(images, anchor=corner, shape=shape, axes=[0, 1], normalized=True, fill_value=0)


def epochs(job: Job) -> Epochs:
    """The reader pads nothing and drops the last, unfilled batch."""
    on_gpu = job.device == "cuda"
    made = pipeline(
        job, "gpu" if on_gpu else "cpu", batch_size=job.batch_size, num_threads=job.threads,
        device_id=0 if on_gpu else None, seed=job.seed, prefetch_queue_depth=2,
    )  # fmt: skip
    names, policy = ["image", "target"], LastBatchPolicy.DROP
    iterator = DALIGenericIterator(made, names, reader_name="reader", auto_reset=True, last_batch_policy=policy)
    while True:
        yield _pairs(iterator)


def _pairs(iterator: Any) -> Iterator[tuple[Any, Any]]:
    for (batch,) in iterator:
        yield batch["image"], batch["target"]
