"""DALI as its documentation has it: its own webdataset reader, its own operators, its iterator for torch.

Pixels and target; shuffled in a reservoir of 1,000; saturation and value are scaled, not shifted, always five holes; no
stand-in for a damaged JPEG, no checksums.
"""

from pathlib import Path
from typing import Any

import nvidia.dali.fn as fn
from nvidia.dali import pipeline_def
from nvidia.dali.plugin.base_iterator import LastBatchPolicy
from nvidia.dali.plugin.pytorch import DALIGenericIterator
from nvidia.dali.types import BOOL

from benchmarks.peers.job import Epochs, Job


@pipeline_def(enable_conditionals=True)
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
    """Each step on half of the images; a step that an image is spared costs it nothing."""
    uniform, heads = fn.random.uniform, fn.random.coin_flip
    if heads(dtype=BOOL):
        images = fn.transpose(images, perm=[1, 0, 2], transpose_layout=False)  # and flips: quarter turns, cheaply
    if heads(dtype=BOOL):
        middle, stretch = [size / 2, size / 2], uniform(range=[0.9, 1.1])
        matrix = fn.transforms.rotation(angle=uniform(range=[-45.0, 45.0]), center=middle)
        matrix = fn.transforms.scale(matrix, scale=fn.stack(stretch, stretch), center=middle)
        matrix = fn.transforms.translation(matrix, offset=uniform(range=[-0.0625 * size, 0.0625 * size], shape=[2]))
        images = fn.warp_affine(images, matrix=matrix, fill_value=0, inverse_map=False)
    if heads(dtype=BOOL):
        part = {"saturation": uniform(range=[0.88, 1.12]), "value": uniform(range=[0.92, 1.08])}
        images = fn.hsv(images, hue=uniform(range=[-20.0, 20.0]), **part)
    if heads(dtype=BOOL):
        shift = uniform(range=[-0.2, 0.2])
        images = fn.brightness_contrast(images, contrast=uniform(range=[0.8, 1.2]), brightness_shift=shift)
    if heads(dtype=BOOL):
        corner, shape = uniform(range=[0.0, 0.9], shape=[10]), uniform(range=[0.05, 0.1], shape=[10])
        images = fn.erase(images, anchor=corner, shape=shape, axes=[0, 1], normalized=True, fill_value=0)
    return images


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
        yield ((batch["image"], batch["target"]) for (batch,) in iterator)
