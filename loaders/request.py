"""Which samples come when, and what is done to each: pure functions of (seed, epoch, step, rank).

A request is one batch before its pixels exist. Renderers turn requests into images, loaders/loader.py into batches.
"""

from collections import deque
from collections.abc import Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import numpy.typing as npt

from configs.schema import AugmentConfig, Border, ProgressiveConfig
from loaders.augment import AugmentParams, draw_params
from loaders.order import Indices, Partition, epoch_orders

_DRAWN_TOGETHER = 2048  # samples whose parameters are drawn at once, which hides the overhead of each call

StandIns = Mapping[int, int]
"""Samples that replace corrupt ones: place in the request -> row number in the shard set."""
_Group = tuple[int, range, Indices, npt.NDArray[np.bool_]]  # epoch, steps, and of these: samples, whether each counts


@dataclass(frozen=True, kw_only=True)
class Request:
    """One rank's share of a global batch, b samples: row numbers, which of them count, and their augmentation.

    size: the edge of the images, in pixels; index: int64 [b]; valid: bool [b]; params: None for images without
    augmentation, in evaluation; border: that of the whole stream; rows: int64, all samples of the stream, from which
    stand-ins for corrupt ones are drawn. index, valid and rows are read-only.
    """

    epoch: int
    step: int
    size: int
    index: Indices
    valid: npt.NDArray[np.bool_]
    params: AugmentParams | None
    rows: Indices
    border: Border = "constant"

    def __post_init__(self) -> None:
        for name in ("index", "valid", "rows"):
            view = getattr(self, name).view()
            view.setflags(write=False)
            object.__setattr__(self, name, view)

    def with_stand_ins(self, stand_ins: StandIns) -> "Request":
        """The request with other samples at some places; in an evaluation these do not count."""
        if not stand_ins:
            return self
        index, valid = self.index.copy(), self.valid.copy()
        for place, sample in stand_ins.items():
            index[place] = sample
            valid[place] &= self.params is not None
        return replace(self, index=index, valid=valid)


def train_requests(
    rows: Indices,
    partition: Partition,
    augment: AugmentConfig,
    *,
    seed: int,
    size: int,
    epochs: range,
    first_step: int = 0,
    progressive: ProgressiveConfig | None = None,
) -> Generator[Request]:
    """The training stream over `epochs`, from step `first_step` of the first one on.

    `rows` (int64) are the samples in any fixed order; `size` is the stored images' edge in pixels, and that of all
    epochs but those that `progressive` makes smaller. The parameters of the next group of samples are drawn on a thread
    while this one is in use. Must be exhausted or closed, as epoch_orders.
    """
    local, together = partition.local_batch_size, max(1, _DRAWN_TOGETHER // partition.local_batch_size)
    edges = progressive or ProgressiveConfig()

    def groups() -> Generator[_Group]:
        with closing(epoch_orders(len(rows), seed, epochs)) as orders:
            for epoch, permuted in orders:
                order = rows[permuted]
                for start in range(first_step if epoch == epochs.start else 0, partition.steps, together):
                    steps = range(start, min(start + together, partition.steps))
                    positions = zip(*map(partition.positions, steps), strict=True)
                    places, valid = (np.concatenate(part) for part in positions)
                    yield epoch, steps, order[places], valid

    def drawn(group: _Group) -> tuple[_Group, AugmentParams]:
        epoch, _, index, _ = group
        return group, draw_params(augment, seed=seed, epoch=epoch, index=index, size=edges.size_in(epoch, size))

    with closing(groups()) as remaining, ThreadPoolExecutor(1, thread_name_prefix="params-drawn") as thread:
        following = deque(thread.submit(drawn, group) for group in islice(remaining, 1))
        while following:
            (epoch, steps, index, valid), params = following.popleft().result()
            following.extend(thread.submit(drawn, group) for group in islice(remaining, 1))
            for number, step in enumerate(steps):
                part = slice(number * local, (number + 1) * local)
                yield Request(
                    epoch=epoch,
                    step=step,
                    size=edges.size_in(epoch, size),
                    index=index[part],
                    valid=valid[part],
                    params=params.part(part),
                    rows=rows,
                    border=augment.border,
                )


def eval_requests(rows: Indices, partition: Partition, size: int) -> Generator[Request]:
    """Each of `rows` once, in their order, without augmentation; `size` is the images' edge in pixels."""
    for step in range(partition.steps):
        places, valid = partition.positions(step)
        yield Request(epoch=0, step=step, size=size, index=rows[places], valid=valid, params=None, rows=rows)
