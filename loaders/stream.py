"""The stream: from rows of a shard set to batches, in the order that loaders/order.py gives.

    requests (which samples, which parameters; a pure function)  ->  renderer (pixels)  ->  batches

The renderer works ahead of the consumer, over the end of an epoch into the next.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from configs.schema import AugmentConfig, MetaKind
from loaders.augment import AugmentParams, draw_params
from loaders.order import Indices, Partition, epoch_orders
from loaders.shards import ShardSet
from prep.metadata import hide_clinical

_DRAWN_TOGETHER = 2048  # samples whose parameters are drawn at once: enough to hide what each call costs


@dataclass(frozen=True, kw_only=True)
class Request:
    """One rank's share of a global batch, b samples: their numbers, which of them count, and what to do to them.

    params is None where the pictures are wanted as they are, to be evaluated. rows: all samples of the stream, from
    which stand-ins for damaged ones are drawn.
    """

    epoch: int
    step: int
    index: Indices
    valid: npt.NDArray[np.bool_]
    params: AugmentParams | None
    rows: Indices

    def own(self) -> "Request":
        """A copy whose index and valid may be changed."""
        return replace(self, index=self.index.copy(), valid=self.valid.copy())


TENSORS = ("image", "meta", "target", "diagnosis", "index", "valid")
"""The fields of a Batch that are tensors, a row for each sample."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """b samples for the model; `image` may be reused for another batch once the next one is asked for.

    image: uint8 [b, H, W, 3]; meta: float32 [b, M]; target: float32 [b], -1 unknown; diagnosis: int64 [b], a number
    into prep.diagnosis.CLASSES; index: int64 [b], the samples' numbers in the shard set; valid: bool [b], False for
    padding. All on one device.
    """

    epoch: int
    step: int
    image: torch.Tensor
    meta: torch.Tensor
    target: torch.Tensor
    diagnosis: torch.Tensor
    index: torch.Tensor
    valid: torch.Tensor

    def to(self, device: torch.device) -> "Batch":
        """The same batch on `device`; no copy waits for the device."""
        if device.type != "cuda":
            return self
        small = {name: getattr(self, name).pin_memory() for name in TENSORS if name != "image"}
        parts = {"image": self.image, **small}
        return replace(self, **{name: part.to(device, non_blocking=True) for name, part in parts.items()})


class Renderer(Protocol):
    """Turns requests into pixels, in order and ahead of the consumer."""

    def render(self, requests: Iterable[Request]) -> Iterator[tuple[Request, torch.Tensor]]:
        """Each request with its images, uint8 [b, size, size, 3]; index and valid tell what became of damaged ones."""
        ...

    def close(self) -> None:
        """End threads and free buffers; an iterator of `render` must not be used afterwards."""
        ...


class BlankRenderer:
    """Black pictures and no reading, for a model that looks at the patient's data alone."""

    def __init__(self, batch_size: int, size: int, device: torch.device) -> None:
        self._image = torch.zeros(batch_size, size, size, 3, dtype=torch.uint8, device=device)

    def render(self, requests: Iterable[Request]) -> Iterator[tuple[Request, torch.Tensor]]:
        """Each request with the same black pictures."""
        for request in requests:
            yield request, self._image

    def close(self) -> None:
        """Nothing to end."""


def train_requests(
    rows: Indices,
    partition: Partition,
    augment: AugmentConfig,
    *,
    seed: int,
    size: int,
    epochs: range,
    first_step: int = 0,
) -> Iterator[Request]:
    """The training stream over `epochs`, from step `first_step` of the first one on.

    `rows` (int64) are the samples in any fixed order; `size` is the images' edge in pixels.
    """
    group = max(1, _DRAWN_TOGETHER // partition.local_batch_size)
    for epoch, permuted in epoch_orders(len(rows), seed, epochs):
        order = rows[permuted]
        for start in range(first_step if epoch == epochs.start else 0, partition.steps, group):
            steps = range(start, min(start + group, partition.steps))
            places, valid = (np.concatenate(part) for part in zip(*map(partition.positions, steps), strict=True))
            index = order[places]
            params = draw_params(augment, seed=seed, epoch=epoch, index=index, size=size)
            for number, step in enumerate(steps):
                part = slice(number * partition.local_batch_size, (number + 1) * partition.local_batch_size)
                yield Request(
                    epoch=epoch, step=step, index=index[part], valid=valid[part], params=params.part(part), rows=rows
                )


def eval_requests(rows: Indices, partition: Partition) -> Iterator[Request]:
    """Each of `rows` once, in their order, as they are."""
    for step in range(partition.steps):
        places, valid = partition.positions(step)
        yield Request(epoch=0, step=step, index=rows[places], valid=valid, params=None, rows=rows)


def batches(
    shards: ShardSet, meta: MetaKind, renderer: Renderer, requests: Iterable[Request], device: torch.device
) -> Iterator[Batch]:
    """Render `requests` and join what samples.parquet says of each sample."""
    for request, image in renderer.render(requests):
        features = shards.meta[request.index]
        if request.params is not None:
            hidden = request.params.hide_meta
            features[hidden] = hide_clinical(meta, features[hidden])
        yield Batch(
            epoch=request.epoch,
            step=request.step,
            image=image,
            meta=torch.from_numpy(features),
            target=torch.from_numpy(shards.target[request.index].astype(np.float32)),
            diagnosis=torch.from_numpy(shards.diagnosis[request.index].astype(np.int64)),
            index=torch.from_numpy(request.index),
            valid=torch.from_numpy(request.valid),
        ).to(device)
