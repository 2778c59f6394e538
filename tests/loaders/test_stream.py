"""The stream as a whole: the same batches whatever renders them, on any number of ranks, from any step on."""

import random
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from reference import reference_samples
from streams import (
    BATCH,
    CPU,
    TIERS,
    counted,
    counted_digest,
    digests,
    joined,
    params_digest,
    partition_of,
    requests_of,
    stream,
    train_batches,
)

from configs.errors import UserError
from configs.schema import AugmentConfig, Border, LoaderConfig
from loaders.augment import AugmentParams, draw_params
from loaders.dali_pipeline import DaliPipeline
from loaders.damage import Damage
from loaders.loader import Loader
from loaders.order import Partition
from loaders.placement import chosen_placement
from loaders.reader import Reader
from loaders.render_dali_gpu import GpuDaliRenderer
from loaders.request import Request, train_requests
from loaders.shards import ShardSet
from loaders.source import Source
from prep.metadata import hide_clinical


@pytest.fixture(scope="module")
def shards(shard_folder: Path) -> Iterator[ShardSet]:
    opened = ShardSet(shard_folder)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def whole(shards: ShardSet) -> list[str]:
    """Two epochs on one rank by the host path: what everything else must equal, byte for byte."""
    return digests(list(stream(shards, TIERS["host"])))


def test_every_sample_comes_once_per_epoch_with_its_own_label(shards: ShardSet) -> None:
    seen = list(stream(shards, TIERS["host"], range(1)))
    index = torch.cat([batch.index[batch.valid] for batch in seen]).numpy()
    target = torch.cat([batch.target[batch.valid] for batch in seen]).numpy()
    np.testing.assert_array_equal(np.sort(index), shards.train_rows(0))
    np.testing.assert_array_equal(target, shards.target[index])
    assert all(batch.image.shape == (BATCH, 64, 64, 3) and batch.image.dtype == torch.uint8 for batch in seen)


@pytest.mark.parametrize("tier", TIERS)
def test_every_tier_gives_the_same_bytes(shards: ShardSet, tier: str, whole: list[str]) -> None:
    assert digests(list(stream(shards, TIERS[tier]))) == whole


@pytest.mark.parametrize("border", get_args(Border))
def test_every_tier_shows_the_same_border(shards: ShardSet, border: Border, whole: list[str]) -> None:
    augment = AugmentConfig(border=border, shift=0.5)
    first, *others = (digests(list(stream(shards, tier, range(1), augment=augment))) for tier in TIERS.values())
    assert others == [first] * 3
    default = digests(list(stream(shards, TIERS["host"], range(1), augment=AugmentConfig(border=border))))
    assert (default == whole[: len(whole) // 2]) == (border == "constant")


@pytest.mark.parametrize("tier", TIERS)
def test_a_batch_stays_unchanged_while_a_slow_consumer_uses_it(shards: ShardSet, tier: str, whole: list[str]) -> None:
    assert digests(list(stream(shards, TIERS[tier], range(1), pause=0.02))) == whole[: len(whole) // 2]


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("world", [2, 4])
def test_ranks_together_see_the_same_global_batches(shards: ShardSet, tier: str, world: int, whole: list[str]) -> None:
    ranks = [list(stream(shards, TIERS[tier], rank=rank, world=world)) for rank in range(world)]
    assert digests([joined(list(parts)) for parts in zip(*ranks, strict=True)]) == whole


@pytest.mark.parametrize("tier", TIERS)
def test_three_ranks_see_what_counts_in_the_same_global_batches(shards: ShardSet, tier: str) -> None:
    """16 samples as 5, 5 and 6, each share padded to 6."""
    ranks = [list(stream(shards, TIERS[tier], rank=rank, world=3)) for rank in range(3)]
    assert {len(batch.valid) for batches in ranks for batch in batches} == {6}
    found = [counted(joined(list(parts))) for parts in zip(*ranks, strict=True)]
    assert digests(found) == digests(list(map(counted, stream(shards, TIERS["host"]))))


def test_a_stream_goes_on_at_random_steps_on_other_numbers_of_ranks(shards: ShardSet) -> None:
    """From start to end on 1, 2, 3 and 4 ranks, and from 20 random steps on."""
    whole = [counted_digest([request]) for request in requests_of(shards)]
    steps, rng = len(whole) // 2, random.Random(0)
    places = [(0, world) for world in (1, 2, 3, 4)]
    places += [(rng.randrange(len(whole)), rng.randint(1, 4)) for _ in range(20)]
    for start, world in places:
        epoch, first = divmod(start, steps)
        ranks = [requests_of(shards, range(epoch, 2), first, rank, world) for rank in range(world)]
        assert [counted_digest(list(parts)) for parts in zip(*ranks, strict=True)] == whole[start:], (start, world)


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_together_draw_the_same_parameters(shards: ShardSet, world: int) -> None:
    ranks = [requests_of(shards, rank=rank, world=world) for rank in range(world)]
    for one, parts in zip(requests_of(shards), zip(*ranks, strict=True), strict=True):
        assert params_digest(list(parts)) == params_digest([one])


def test_parameters_are_drawn_a_group_ahead_on_a_thread(shards: ShardSet, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, two = list[str](), threading.Event()

    def recorded(*arguments: Any, **options: Any) -> AugmentParams:
        drawn.append(threading.current_thread().name)
        if len(drawn) == 2:
            two.set()
        return draw_params(*arguments, **options)

    monkeypatch.setattr("loaders.request._DRAWN_TOGETHER", 2 * BATCH)
    monkeypatch.setattr("loaders.request.draw_params", recorded)
    requests = requests_of(shards)
    seen = [next(requests)]
    assert two.wait(300)  # while the first group is in use
    seen.append(next(requests))
    assert len(drawn) == 2
    seen += requests
    assert {name.partition("_")[0] for name in drawn} == {"params-drawn"}
    assert [(one.epoch, one.step) for one in seen] == list(product(range(2), range(partition_of(shards).steps)))
    for one in seen:
        alone = draw_params(AugmentConfig(), seed=5, epoch=one.epoch, index=one.index, size=shards.size)
        assert params_digest([one]) == params_digest([replace(one, params=alone)])


@pytest.mark.parametrize("world", [1, 2, 4])
def test_a_stream_resumed_at_any_step_is_the_same_stream(
    shards: ShardSet, world: int, whole: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each step of both epochs, the first and last included, on every rank; drawn in groups of a few steps."""
    monkeypatch.setattr("loaders.request._DRAWN_TOGETHER", 40)
    steps = len(whole) // 2
    for consumed in range(2 * steps):
        epoch, step = divmod(consumed, steps)  # after an epoch's last step the cursor is at its end
        ranks = [
            list(stream(shards, TIERS["host"], range(epoch, 2), first_step=step + 1, rank=rank, world=world))
            for rank in range(world)
        ]
        assert digests([joined(list(parts)) for parts in zip(*ranks, strict=True)]) == whole[consumed + 1 :]


@pytest.mark.parametrize("tier", ["dali-cpu", "host, ram"])
def test_the_other_tiers_resume_at_any_step_too(shards: ShardSet, tier: str, whole: list[str]) -> None:
    steps = len(whole) // 2
    for step in range(steps):
        assert digests(list(stream(shards, TIERS[tier], range(1, 2), first_step=step))) == whole[steps + step :]


@pytest.mark.parametrize("tier", ["host", "dali-cpu"])
def test_images_without_augmentation_are_those_of_pillow(shards: ShardSet, tier: str) -> None:
    tars = [shards.folder / entry.file for entry in shards.manifest.shards]
    expected = [sample["image"] for sample in reference_samples(tars)]
    rows = np.arange(len(shards))
    with Loader(TIERS[tier], shards, rows, CPU, threads=2) as loader:
        for batch in loader.eval_batches(rows, Partition(samples=len(rows), batch_size=10)):
            for image, index, valid in zip(batch.image, batch.index, batch.valid, strict=True):
                assert not valid or torch.equal(image, expected[index])


def test_the_next_epoch_is_requested_before_this_one_ends(shards: ShardSet, monkeypatch: pytest.MonkeyPatch) -> None:
    requested: list[tuple[int, int]] = []

    def recorded(*arguments: Any, **options: Any) -> Iterator[Request]:
        for request in train_requests(*arguments, **options):
            requested.append((request.epoch, request.step))
            yield request

    monkeypatch.setattr("loaders.loader.train_requests", recorded)
    for tier in ("host", "dali-cpu"):
        requested.clear()
        with Loader(TIERS[tier], shards, shards.train_rows(0), CPU, threads=2) as loader:
            for batch in train_batches(loader, shards):
                if batch.epoch == 0:
                    last = batch.step
                    ahead = requested[-1]
        assert ahead[0] == 1, f"{tier}: at step {last}, the last of its epoch, only {ahead} had been requested"


def test_a_request_cannot_be_changed(shards: ShardSet) -> None:
    request = next(requests_of(shards))
    for name in ("index", "valid", "rows"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(request, name)[0] = 1
    assert shards.train_rows(0).flags.writeable
    other = request.with_stand_ins({3: 77})
    assert (other.index[3], request.index[3] == 77) == (77, False)


def test_a_new_stream_ends_the_one_before_it(shards: ShardSet) -> None:
    with Loader(TIERS["host"], shards, shards.train_rows(0), CPU, threads=2) as loader:
        first = train_batches(loader, shards)
        next(first)
        assert len(digests(list(train_batches(loader, shards, range(1))))) == partition_of(shards).steps
        assert list(first) == []


def test_metadata_alone_needs_no_pixels(shards: ShardSet) -> None:
    rows = shards.train_rows(0)
    with Loader(LoaderConfig(cache="ram"), shards, rows, CPU, threads=1, images=False) as loader:
        seen = list(loader.eval_batches(rows, partition_of(shards), meta=["reference"]))
        assert loader.clock.images == 0
    assert not any(batch.image.any() for batch in seen)
    index = torch.cat([batch.index[batch.valid] for batch in seen]).numpy()
    np.testing.assert_array_equal(torch.cat([b.meta[b.valid] for b in seen]).numpy(), shards.meta("reference")[index])


@pytest.mark.parametrize("shift", [AugmentConfig().shift, 1.0])
@pytest.mark.parametrize("border", get_args(Border))
@pytest.mark.parametrize("fed", ["jpegs", "pixels"])
def test_dalis_whole_graph_makes_the_host_paths_images(
    shards: ShardSet, fed: str, border: Border, shift: float
) -> None:
    """The graph that runs on a GPU, here on DALI's CPU backend, against OpenCV: inside the image and at its edge."""
    augment = AugmentConfig(border=border, shift=shift)
    rows, partition = np.arange(48), Partition(samples=48, batch_size=24)
    source = Source(shards=shards, damage=Damage("fail", 1))
    decode = "cpu" if fed == "jpegs" else None
    pipeline = DaliPipeline(source, 24, decode=decode, augment=True, border=border, device=CPU, threads=2, prefetch=2)  # type: ignore[arg-type]
    reader = Reader(source, threads=1, ahead=2)

    def requests() -> Iterator[Request]:
        return train_requests(rows, partition, augment, seed=2, size=shards.size, epochs=range(1))

    with (
        Loader(LoaderConfig(placement="host"), shards, rows, CPU, threads=2) as host,
        Loader(LoaderConfig(placement="host"), shards, rows, CPU, threads=2) as plain,
    ):
        stored = torch.cat([batch.image.clone() for batch in plain.eval_batches(rows, partition)])
        kept = ((request, stored[torch.from_numpy(request.index.copy())]) for request in requests())
        inputs = reader.jpegs(requests()) if fed == "jpegs" else kept
        drawn = host.train_batches(rows, partition, augment, seed=2, epochs=range(1))
        for (_, dali), ours in zip(pipeline.run(inputs), drawn, strict=True):
            difference = (dali.int() - ours.image.int()).abs().float()
            assert difference[:, 16:-16, 16:-16].mean() < 1
            assert difference.mean() < 2
    reader.close()


def test_a_renderer_of_several_streams_shows_each_ones_border(shards: ShardSet) -> None:
    """The GPU placement's renderer, here on DALI's CPU backend."""
    source = Source(shards=shards, damage=Damage("fail", 1))
    rows, partition = np.arange(24), Partition(samples=24, batch_size=24)

    reader = Reader(source, threads=1, ahead=2)

    def image(renderer: GpuDaliRenderer, border: Border) -> torch.Tensor:
        augment = AugmentConfig(border=border, shift_scale_rotate=1.0)
        requests = train_requests(rows, partition, augment, seed=2, size=shards.size, epochs=range(1))
        ((_, images),) = renderer.render(requests)
        return images.clone()

    def opened() -> GpuDaliRenderer:
        return GpuDaliRenderer(source, reader, 24, decode="cpu", threads=2, prefetch=2, device=CPU, hw_decoder_load=0.0)

    with closing(opened()) as one:
        found = {border: image(one, border) for border in get_args(Border)}
    for border, images in found.items():
        with closing(opened()) as alone:
            assert torch.equal(images, image(alone, border))
    reader.close()
    assert len({images.numpy().tobytes() for images in found.values()}) == 3


def test_hidden_metadata_is_that_of_the_drawn_samples(shards: ShardSet) -> None:
    batch = next(stream(shards, TIERS["host"]))
    params = draw_params(AugmentConfig(), seed=5, epoch=0, index=batch.index.numpy(), size=shards.size)
    expected = shards.meta("clinical")[batch.index.numpy()]
    expected[params.hide_meta] = hide_clinical("clinical", expected[params.hide_meta])
    np.testing.assert_array_equal(batch.meta.numpy(), expected)


def test_without_dali_the_host_path_is_used_and_the_reason_is_given(
    shards: ShardSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loaders.placement.require_dali", lambda: "NVIDIA DALI is not installed")
    rows = np.arange(8)
    with Loader(LoaderConfig(), shards, rows, CPU, threads=1) as loader:
        assert loader.placement == "host"
    with pytest.raises(UserError, match="not installed"):
        Loader(TIERS["dali-cpu"], shards, rows, CPU, threads=1)
    placement, why = chosen_placement(LoaderConfig(), torch.device("cuda"))
    assert (placement, why) == ("host", "NVIDIA DALI is not installed")


def test_what_needs_a_gpu_names_the_alternatives(shards: ShardSet) -> None:
    with pytest.raises(UserError, match=r"needs a CUDA GPU: use dali-cpu, host or auto"):
        Loader(LoaderConfig(placement="dali-gpu"), shards, np.arange(8), CPU, threads=1)
    with pytest.raises(UserError, match=r"needs a CUDA GPU and DALI: use --loader\.cache ram"):
        Loader(LoaderConfig(cache="gpu"), shards, np.arange(8), CPU, threads=1)
    with pytest.raises(UserError, match=r"only --loader\.placement dali-gpu"):
        LoaderConfig(placement="host", cache="gpu")
