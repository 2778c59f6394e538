"""What DALI is fed is not copied, so it must stay as it is until DALI has read it; here on its CPU backend."""

import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from streams import CPU, TIERS

from loaders.cache import gathered
from loaders.dali_pipeline import DaliPipeline
from loaders.damage import Damage
from loaders.decode import Pixels
from loaders.loader import Loader
from loaders.order import Partition
from loaders.request import Request, eval_requests
from loaders.shards import ShardSet
from loaders.source import Source

BATCH, PREFETCH = 10, 3
ROWS = np.arange(140)


class Slots:
    """Memory for what is fed, wiped and used again as soon as nobody refers to the array in it."""

    def __init__(self, size: int) -> None:
        self.size, self.made, self.used = size, 0, 0
        self.free: deque[bytearray] = deque()

    def filled(self, content: Pixels) -> Pixels:
        self.made += not self.free
        self.used += 1
        slot = self.free.popleft() if self.free else bytearray(self.size)
        array = np.frombuffer(slot, np.uint8, content.size).reshape(content.shape)
        array[:] = content
        weakref.finalize(array, self._wipe, slot)
        return array

    def _wipe(self, slot: bytearray) -> None:
        slot[:] = bytes(self.size)
        self.free.append(slot)


@pytest.fixture
def shards(shard_folder: Path) -> Iterator[ShardSet]:
    with closing(ShardSet(shard_folder)) as opened:
        yield opened


class Fed:
    """A pipeline that is fed JPEGs or pixels out of `slots`."""

    def __init__(self, shards: ShardSet, kind: str) -> None:
        self.shards, self.kind = shards, kind
        source = Source(shards=shards, damage=Damage("fail", 1))
        decode: Any = "cpu" if kind == "jpegs" else None
        self.pipeline = DaliPipeline(
            source, BATCH, decode=decode, augment=False, device=CPU, threads=2, prefetch=PREFETCH
        )
        self.slots = Slots(1 << 14 if kind == "jpegs" else BATCH * 3 * shards.size**2)
        self.stored = images_of(shards)

    def inputs(self) -> Iterator[tuple[Request, Any]]:
        for request in eval_requests(ROWS, Partition(samples=len(ROWS), batch_size=BATCH), self.shards.size):
            if self.kind == "jpegs":
                jpegs = self.shards.jpegs(request.index)
                yield request, [self.slots.filled(np.frombuffer(jpeg, np.uint8)) for jpeg in jpegs]
            else:
                yield request, torch.from_numpy(self.slots.filled(self.stored[request.index]))

    def run(self) -> Iterator[tuple[Request, torch.Tensor]]:
        return self.pipeline.run(self.inputs())


def images_of(shards: ShardSet) -> Pixels:
    """Every image of the set, by the host path."""
    with Loader(TIERS["host"], shards, ROWS, CPU, threads=1) as loader:
        batches = loader.eval_batches(ROWS, Partition(samples=len(ROWS), batch_size=BATCH))
        return np.concatenate([batch.image.numpy().copy() for batch in batches])


@pytest.mark.parametrize("kind", ["jpegs", "pixels"])
def test_memory_is_used_again_once_it_was_read_and_not_before(shards: ShardSet, kind: str) -> None:
    fed = Fed(shards, kind)
    for request, images in fed.run():
        np.testing.assert_array_equal(images.numpy(), fed.stored[request.index])
    parts = BATCH if kind == "jpegs" else 1
    assert fed.slots.used == parts * len(ROWS) // BATCH
    assert fed.slots.made <= parts * (PREFETCH + 2)
    assert len(fed.slots.free) == fed.slots.made  # nothing is held after the last batch


@pytest.mark.parametrize("kind", ["jpegs", "pixels"])
def test_an_abandoned_stream_lets_go_of_what_it_was_fed(shards: ShardSet, kind: str) -> None:
    fed = Fed(shards, kind)
    for _ in range(3):
        abandoned = fed.run()
        next(abandoned)
        abandoned.close()  # type: ignore[attr-defined]
        assert len(fed.slots.free) == fed.slots.made
    for request, images in fed.run():
        np.testing.assert_array_equal(images.numpy(), fed.stored[request.index])


@pytest.mark.parametrize("size", [8, 7])
def test_images_are_gathered_into_pinned_memory_alike(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: list[bool] = []

    def empty(*shape: Any, pin_memory: bool, allocate: Any = torch.empty, **options: Any) -> torch.Tensor:
        pinned.append(pin_memory)  # which needs a GPU
        return allocate(*shape, **options)

    pixels, places = torch.randint(0, 256, (5, size, size, 3), dtype=torch.uint8), torch.tensor([3, 1, 3])
    monkeypatch.setattr(torch, "empty", empty)
    assert torch.equal(gathered(pixels, places, pinned=True), pixels[places])
    assert pinned == [True]
