"""Batches of JPEGs decoded on the GPU by torchvision or torchcodec (nvJPEG), one call a batch; flips on the GPU.

Files are read by threads, ahead of it. Pixels and target, no checksums; flips only, since neither augments.
"""

import random
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from benchmarks.peers import pixels
from benchmarks.peers.job import Epochs, Job

_AHEAD = 2  # batches
Decode = Callable[[list[torch.Tensor]], list[torch.Tensor]]


def epochs(job: Job) -> Epochs:
    """Raises ValueError for another workload than flips."""
    if job.workload != "flips":
        raise ValueError("it only decodes: the whole augmentation is not measured")
    samples = list(zip(*job.files(), strict=True))
    decode = _decoder(job.options["variant"], job.device)
    with ThreadPoolExecutor(job.threads) as pool:
        while True:
            random.shuffle(samples)
            starts = range(0, len(samples) - job.batch_size + 1, job.batch_size)
            yield _epoch([samples[start : start + job.batch_size] for start in starts], pool, decode)


def _epoch(
    batches: list[list[tuple[str, float]]], pool: ThreadPoolExecutor, decode: Decode
) -> Iterator[tuple[Any, Any]]:
    waiting: deque[tuple[list[Future[torch.Tensor]], list[float]]] = deque()
    for batch in [*batches, *[[]] * _AHEAD]:
        if batch:
            waiting.append(([pool.submit(_read, path) for path, _ in batch], [target for _, target in batch]))
        if waiting and (not batch or len(waiting) > _AHEAD):
            files, targets = waiting.popleft()
            images = torch.stack(decode([file.result() for file in files])).permute(0, 2, 3, 1).contiguous()
            for axis in (1, 2):
                chosen = torch.rand(len(images), device=images.device) < 0.5
                images = torch.where(chosen[:, None, None, None], images.flip(axis), images)
            yield images, torch.tensor(targets)


def _read(path: str) -> torch.Tensor:
    return torch.frombuffer(bytearray(pixels.read(path)), dtype=torch.uint8)


def _decoder(variant: str, device: str) -> Decode:
    """JPEGs, each uint8 [n] on the host -> pictures, each uint8 [3, H, W] on the device."""
    if variant == "torchvision":
        from torchvision.io import ImageReadMode, decode_jpeg

        return lambda jpegs: list(decode_jpeg(jpegs, mode=ImageReadMode.RGB, device=device))
    from torchcodec.decoders import decode_jpeg as decode_batch

    return lambda jpegs: list(decode_batch(jpegs, mode="RGB", device=device))
