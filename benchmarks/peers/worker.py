"""One loader in a process of its own: every order on its standard input is answered with one line of JSON.

    python -m benchmarks.peers.worker ADAPTER JOB [prepare]

The first line says that all is imported; "open" takes the first batch, "SECONDS" consumes the stream for that long.
With prepare it only writes the peer's own format. benchmarks/process.py is the other end.
"""

import importlib
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from benchmarks.peers.job import Job

_PACKAGES = """torch numpy pillow simplejpeg opencv-python-headless albumentations webdataset nvidia-dali-cuda130 ffcv
litdata mosaicml-streaming spdl torchvision torchcodec"""
_FEWEST = 4  # steady batches of a turn, however slow


def main() -> None:
    """Write the peer's format; or open the adapter's stream and serve."""
    from models.torchvision_stub import define_missing_operators

    define_missing_operators()
    answers = os.fdopen(os.dup(1), "w")  # libraries print; only answers go where the other end reads
    os.dup2(2, 1)
    adapter, job = importlib.import_module(f"benchmarks.peers.{sys.argv[1]}"), Job(**json.loads(sys.argv[2]))
    if sys.argv[3:] == ["prepare"]:
        job.own.mkdir(parents=True, exist_ok=True)
        adapter.prepare(job)
        return
    stream = batches(adapter.epochs(job), job)
    print(json.dumps({"imported": True}), file=answers, flush=True)
    for order in sys.stdin:
        if order == "open\n":
            begin = time.perf_counter()
            images, _ = next(stream)
            answer = {
                "first_batch_s": time.perf_counter() - begin,
                "contract": " ".join(adapter.__doc__.split()),
                "versions": versions(),
                "wrong": wrong(images, job),
            }
        else:
            answer = turn(stream, job, float(order))
        print(json.dumps(answer), file=answers, flush=True)


def versions() -> dict[str, str]:
    """Of what may do a loader's work, as far as this environment has it."""
    found = {}
    for name in _PACKAGES.split():
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def wrong(images: Any, job: Job) -> str:
    """What of a batch is not as agreed, "" where all is; the limits make no batches."""
    if isinstance(images, range):
        return ""
    found = f"{images.dtype} {tuple(images.shape)} on {images.device.type}"
    agreed = f"torch.uint8 {(job.batch_size, job.size, job.size, 3)} on {job.device}"
    return "" if found == agreed else f"hands over {found}, not {agreed}"


def batches(epochs: Any, job: Job) -> Iterator[tuple[Any, bool]]:
    """Of endless epochs: images, on the device, and whether they are the first of their epoch."""
    for epoch in epochs:
        first = True
        for images, _ in epoch:
            if job.pin and not isinstance(images, range) and not images.is_cuda:
                images = images.to("cuda", non_blocking=True)
            yield images, first
            first = False


def turn(stream: Iterator[tuple[Any, bool]], job: Job, seconds: float) -> dict[str, Any]:
    """Consume the stream until `seconds` of it were steady, or four times as long where epochs are too short.

    Returns images and seconds of the steady part, and for each epoch that began, the wait for its first batch.
    """
    left_out = margin(job.threads)
    moments, counts, starts, enough = [time.perf_counter()], [0], [], 0.0
    while len(moments) <= left_out + _FEWEST or (enough < seconds and moments[-1] - moments[left_out] < 4 * seconds):
        images, first = next(stream)
        counts.append(len(images))
        moments.append(time.perf_counter())
        if first and len(moments) > 2:
            starts.append(len(moments) - 1)
        if len(moments) - (starts[-1] if starts else 0) > left_out + 1:
            enough += moments[-1] - moments[-2]
    if job.pin:
        import torch

        torch.cuda.current_stream().synchronize()  # batches that are made ahead may go on
        moments[-1] = time.perf_counter()
    waits = [moments[start] - moments[start - 1] for start in starts]
    return {**steady(moments, counts, starts, left_out), "consumed": sum(counts), "epoch_waits_s": waits}


def margin(threads: int) -> int:
    """Batches left out at a turn's beginning and on both sides of an epoch's end: more than any peer has on the way."""
    return max(5, 2 * threads + 1)


def steady(moments: list[float], counts: list[int], starts: list[int], margin: int) -> dict[str, float]:
    """Images and seconds of the batches that are not within `margin` of the turn's beginning or of an epoch's.

    moments[i] is when batch i came, holding counts[i] images; moments[0] is the beginning, starts the first batches of
    epochs. Where an epoch is too short to have such batches, all but the turn's first `margin` count, waits included.
    """
    every = range(margin + 1, len(moments))
    kept = [batch for batch in every if all(not -margin <= batch - start <= margin for start in starts)]
    kept = kept if len(kept) >= _FEWEST else [*every]
    seconds = sum(moments[batch] - moments[batch - 1] for batch in kept)
    return {"images": sum(counts[batch] for batch in kept), "seconds": seconds}


if __name__ == "__main__":
    main()
