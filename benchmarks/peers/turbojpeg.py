"""The limit: bare libjpeg-turbo on threads, bytes in memory to pixels in one reused buffer a thread, nothing else.

No batches: pixels are thrown away. Each decode takes the GIL twice for a few microseconds, so that beyond some 20
threads this may bound it.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import cycle
from pathlib import Path
from threading import local
from typing import Any

import numpy as np
import simplejpeg

from benchmarks.peers.job import Epochs, Job
from loaders.decode import empty_images
from loaders.shards import ShardSet

_TOGETHER = 32


def epochs(job: Job) -> Epochs:
    """One endless epoch; each item stands for _TOGETHER decoded images."""
    shards = ShardSet(Path(job.shards))
    jpegs = [bytes(jpeg) for jpeg in shards.jpegs(np.flatnonzero(shards.fold >= 0)[: 8 * 2048])]
    own = local()

    def decode(part: list[bytes]) -> None:
        if not hasattr(own, "pixels"):
            own.pixels = empty_images((job.size, job.size, 3)).numpy()
        for jpeg in part:
            simplejpeg.decode_jpeg(jpeg, buffer=own.pixels)

    def run() -> Iterator[tuple[Any, Any]]:
        parts = cycle([jpegs[start : start + _TOGETHER] for start in range(0, len(jpegs), _TOGETHER)])
        with ThreadPoolExecutor(job.threads) as pool:
            pending: deque[tuple[Future[None], int]] = deque()
            for part in parts:
                pending.append((pool.submit(decode, part), len(part)))
                if len(pending) == 4 * job.threads:
                    done, count = pending.popleft()
                    done.result()
                    yield range(count), None

    yield run()
