"""Batches straight from image files, for pictures that are in no shard set.

Each file is read, decoded and stored by the function that prep uses, and what it stores is decoded by the function that
the loader uses: the pixels are those that a shard set of the same encoding gives.
"""

from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch

from loaders.batch import Batch
from loaders.decode import UNCHANGED, Pixels, decode
from loaders.order import Partition
from loaders.render_host import Ring, Slot
from prep.diagnosis import CLASSES
from prep.images import MAX_PIXELS, BadImageError
from prep.stage import Encoding, read_image

_Work = tuple[int, Slot, list[Future[str]]]


class PictureFiles:
    """N image files, of which each is decoded once per stream.

    reasons: why a file cannot be used, by row (its place in `paths`), as far as this rank has met it. Such a file does
    not stop the others: it is black and not valid in its batch.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        encoding: Encoding,
        device: torch.device,
        *,
        threads: int,
        prefetch: int = 2,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        """threads decode `prefetch` batches ahead, for batches on `device`; nothing is read yet. A file of more than
        `max_pixels` cannot be used."""
        self.reasons: dict[int, str] = {}
        self._paths = paths
        self._encoding = encoding
        self._device = device
        self._threads = threads
        self._prefetch = prefetch
        self._max_pixels = max_pixels

    def __len__(self) -> int:
        return len(self._paths)

    def batches(self, partition: Partition, meta: npt.NDArray[np.float32]) -> Generator[Batch]:
        """This rank's share of the files, in their order, each once; `meta` (float32 [N, M]) are their meta vectors.

        index is the row; target is -1 and diagnosis unknown. Must be exhausted or closed. Raises ValueError where
        partition or meta are not of N samples.
        """
        if not len(self) == partition.samples == len(meta):
            raise ValueError(f"{len(self)} files, but {partition.samples} samples and {len(meta)} meta vectors")
        cv2.setNumThreads(1)  # the files share the threads; OpenCV's own would only compete for the cores
        size = self._encoding.size
        ring = Ring(self._prefetch + 2, (partition.local_batch_size, size, size, 3), self._device)
        pool = ThreadPoolExecutor(self._threads, thread_name_prefix="picture-files")
        pending: deque[_Work] = deque()
        try:
            for step in range(partition.steps):
                pending.append(self._submit(pool, ring.take(), partition, step))
                if len(pending) > self._prefetch:
                    yield self._finished(pending.popleft(), partition, meta)
            while pending:
                yield self._finished(pending.popleft(), partition, meta)
        finally:  # an abandoned stream leaves no work behind
            pool.shutdown(cancel_futures=True)

    def _submit(self, pool: ThreadPoolExecutor, slot: Slot, partition: Partition, step: int) -> _Work:
        index, counts = partition.positions(step)
        wanted = zip(index.tolist(), counts.tolist(), slot.pixels[: len(index)], strict=True)
        return step, slot, [pool.submit(self._fill, row if real else None, slot, out) for row, real, out in wanted]

    def _fill(self, row: int | None, slot: Slot, out: Pixels) -> str:
        """Write file `row`, or black for None, into its place in the slot; returns why it cannot be used, if so."""
        slot.wait_until_read()
        reason = ""
        if row is not None:
            try:
                decode(read_image(self._paths[row], self._encoding, self._max_pixels)[1].jpeg, UNCHANGED, out)
                return ""
            except BadImageError as error:
                reason = str(error)
        out[:] = 0
        return reason

    def _finished(self, work: _Work, partition: Partition, meta: npt.NDArray[np.float32]) -> Batch:
        """The batch, once its images are there."""
        step, slot, images = work
        index, valid = partition.positions(step)
        for place, image in enumerate(images):
            if reason := image.result():
                self.reasons[int(index[place])] = reason
                valid[place] = False
        return Batch(
            epoch=0,
            step=step,
            image=slot.on_device()[: len(index)],
            meta=torch.from_numpy(meta[index]),
            target=torch.full((len(index),), -1.0),
            diagnosis=torch.full((len(index),), CLASSES.index("unknown")),
            index=torch.from_numpy(index),
            valid=torch.from_numpy(valid),
        ).to(self._device)
