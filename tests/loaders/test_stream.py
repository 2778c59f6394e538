"""The stream as a whole: the same batches whatever renders them, on any number of ranks, from any step on."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from streams import BATCH, CPU, TIERS, digests, joined, params_digest, requests_of, stream

from configs.errors import UserError
from configs.schema import AugmentConfig, LoaderConfig
from loaders.augment import draw_params
from loaders.dali import DaliPipeline
from loaders.damage import Damage
from loaders.host import HostRenderer
from loaders.order import Partition
from loaders.placement import open_loader
from loaders.reader import Reader
from loaders.reference import reference_samples
from loaders.shards import ShardSet
from loaders.source import Source
from loaders.stream import Request, batches, eval_requests, train_requests
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


def test_every_sample_comes_once_an_epoch_with_its_own_label(shards: ShardSet) -> None:
    seen = list(stream(shards, TIERS["host"], range(1)))
    index = torch.cat([batch.index[batch.valid] for batch in seen]).numpy()
    target = torch.cat([batch.target[batch.valid] for batch in seen]).numpy()
    np.testing.assert_array_equal(np.sort(index), shards.train_rows(0))
    np.testing.assert_array_equal(target, shards.target[index])
    assert all(batch.image.shape == (BATCH, 64, 64, 3) and batch.image.dtype == torch.uint8 for batch in seen)


@pytest.mark.parametrize("tier", TIERS)
def test_every_tier_gives_the_same_bytes(shards: ShardSet, tier: str, whole: list[str]) -> None:
    assert digests(list(stream(shards, TIERS[tier]))) == whole


@pytest.mark.parametrize("tier", TIERS)
def test_a_slow_consumer_finds_its_batch_untouched(shards: ShardSet, tier: str, whole: list[str]) -> None:
    assert digests(list(stream(shards, TIERS[tier], range(1), pause=0.02))) == whole[: len(whole) // 2]


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("world", [2, 4])
def test_ranks_together_see_the_same_global_batches(shards: ShardSet, tier: str, world: int, whole: list[str]) -> None:
    ranks = [list(stream(shards, TIERS[tier], rank=rank, world=world)) for rank in range(world)]
    assert digests([joined(list(parts)) for parts in zip(*ranks, strict=True)]) == whole


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_together_draw_the_same_parameters(shards: ShardSet, world: int) -> None:
    ranks = [requests_of(shards, rank=rank, world=world) for rank in range(world)]
    for one, parts in zip(requests_of(shards), zip(*ranks, strict=True), strict=True):
        assert params_digest(list(parts)) == params_digest([one])


@pytest.mark.parametrize("world", [1, 2, 4])
def test_a_stream_taken_up_at_any_step_is_the_same_stream(
    shards: ShardSet, world: int, whole: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each step of both epochs, the first and last included, on every rank; drawn in groups of a few steps."""
    monkeypatch.setattr("loaders.stream._DRAWN_TOGETHER", 40)
    steps = len(whole) // 2
    for consumed in range(2 * steps):
        epoch, step = divmod(consumed, steps)  # after an epoch's last step the cursor stands at its end
        ranks = [
            list(stream(shards, TIERS["host"], range(epoch, 2), first_step=step + 1, rank=rank, world=world))
            for rank in range(world)
        ]
        assert digests([joined(list(parts)) for parts in zip(*ranks, strict=True)]) == whole[consumed + 1 :]


@pytest.mark.parametrize("tier", ["dali-cpu", "host, ram"])
def test_the_other_tiers_are_taken_up_at_any_step_too(shards: ShardSet, tier: str, whole: list[str]) -> None:
    steps = len(whole) // 2
    for step in range(steps):
        assert digests(list(stream(shards, TIERS[tier], range(1, 2), first_step=step))) == whole[steps + step :]


@pytest.mark.parametrize("tier", ["host", "dali-cpu"])
def test_plain_pictures_are_those_of_pillow(shards: ShardSet, tier: str) -> None:
    tars = [shards.folder / entry.file for entry in shards.manifest.shards]
    expected = [sample["image"] for sample in reference_samples(tars)]
    rows = np.arange(len(shards))
    requests = eval_requests(rows, Partition(samples=len(rows), batch_size=10))
    with open_loader(TIERS[tier], shards, rows, CPU, threads=2) as loader:
        for batch in batches(shards, "clinical", loader.renderer(10), requests, CPU):
            for image, index, valid in zip(batch.image, batch.index, batch.valid, strict=True):
                assert not valid or torch.equal(image, expected[index])


def test_the_next_epoch_is_under_way_before_this_one_ends(shards: ShardSet) -> None:
    asked: list[tuple[int, int]] = []

    def noted() -> Iterator[Request]:
        for request in requests_of(shards):
            asked.append((request.epoch, request.step))
            yield request

    for tier in ("host", "dali-cpu"):
        asked.clear()
        with open_loader(TIERS[tier], shards, shards.train_rows(0), CPU, threads=2) as loader:
            renderer = loader.renderer(BATCH)
            for request, _ in renderer.render(noted()):
                if request.epoch == 0:
                    last = request.step
                    ahead = asked[-1]
        assert ahead[0] == 1, f"{tier}: at step {last}, the last of its epoch, only {ahead} had been asked for"


@pytest.mark.parametrize("fed", ["jpegs", "pixels"])
def test_dalis_whole_graph_makes_the_host_paths_pictures(shards: ShardSet, fed: str) -> None:
    """The graph that runs on a GPU, here on DALI's CPU backend, against OpenCV: inside the picture and at its edge."""
    rows, partition = np.arange(48), Partition(samples=48, batch_size=24)
    source = Source(shards=shards, damage=Damage("fail", 1))
    decode = "cpu" if fed == "jpegs" else None
    pipeline = DaliPipeline(source, 24, decode=decode, augment=True, device=CPU, threads=2, prefetch=2)  # type: ignore[arg-type]
    reader = Reader(source, threads=1, ahead=2)

    def requests() -> Iterator[Request]:
        return train_requests(rows, partition, AugmentConfig(), seed=2, size=shards.size, epochs=range(1))

    with open_loader(LoaderConfig(placement="host", cache="ram"), shards, rows, CPU, threads=2) as host:
        cache = host.source.cache
        assert cache is not None
        kept = ((request, cache.pictures(request.index)) for request in requests())
        inputs = reader.jpegs(requests()) if fed == "jpegs" else kept
        drawn = host.renderer(24).render(requests())
        for (_, dali), (_, ours) in zip(pipeline.run(inputs), drawn, strict=True):
            difference = (dali.int() - ours.int()).abs().float()
            assert difference[:, 16:-16, 16:-16].mean() < 1
            assert difference.mean() < 2
    reader.close()


def test_hidden_metadata_is_that_of_the_drawn_samples(shards: ShardSet) -> None:
    batch = next(stream(shards, TIERS["host"]))
    params = draw_params(AugmentConfig(), seed=5, epoch=0, index=batch.index.numpy(), size=shards.size)
    expected = shards.meta[batch.index.numpy()]
    expected[params.hide_meta] = hide_clinical("clinical", expected[params.hide_meta])
    np.testing.assert_array_equal(batch.meta.numpy(), expected)


def test_without_dali_the_host_path_serves_and_dali_says_why(shards: ShardSet, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("loaders.dali", "loaders.placement"):
        monkeypatch.setattr(f"{module}.require_dali", lambda: "NVIDIA DALI is not installed")
    rows = np.arange(8)
    with open_loader(LoaderConfig(), shards, rows, CPU, threads=1) as loader:
        assert isinstance(loader.renderer(8), HostRenderer)
    with pytest.raises(UserError, match="not installed"):
        open_loader(TIERS["dali-cpu"], shards, rows, CPU, threads=1).__enter__()


def test_what_needs_a_gpu_names_the_others(shards: ShardSet) -> None:
    with pytest.raises(UserError, match=r"needs a CUDA GPU: take dali-cpu, host or auto"):
        open_loader(LoaderConfig(placement="dali-gpu"), shards, np.arange(8), CPU, threads=1).__enter__()
    with pytest.raises(UserError, match=r"needs a CUDA GPU and DALI: take --loader\.cache ram"):
        open_loader(LoaderConfig(cache="gpu"), shards, np.arange(8), CPU, threads=1).__enter__()
    with pytest.raises(UserError, match=r"only --loader\.placement dali-gpu"):
        LoaderConfig(placement="host", cache="gpu")
