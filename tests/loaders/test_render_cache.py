"""The renderer of pixels kept on the GPU, here on the CPU, against the host path."""

import logging
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from conftest import picture
from streams import (
    BATCH,
    CPU,
    KEPT,
    TIERS,
    cpu_as_gpu,
    digests,
    joined,
    partition_of,
    requests_of,
    stream,
    train_batches,
)

from configs.schema import AugmentConfig, Border
from loaders.augment import AugmentParams, draw_params
from loaders.batch import TENSORS
from loaders.cache import PixelCache, gathered
from loaders.damage import Damage
from loaders.decode import changes, finish, load
from loaders.loader import Loader
from loaders.order import Partition
from loaders.render_cache import CacheRenderer, augmented, compiled, packed
from loaders.request import Request
from loaders.shards import ShardSet
from loaders.source import Source

NEEDS_COMPILER = pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")


@pytest.fixture(scope="module")
def shards(shard_folder: Path) -> Iterator[ShardSet]:
    opened = ShardSet(shard_folder)
    yield opened
    opened.close()


@pytest.fixture
def _cpu_as_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loaders.loader.chosen_placement", cpu_as_gpu)


def cache_of(shards: ShardSet) -> PixelCache:
    """Every image of the set, decoded by the host path."""
    rows = np.arange(len(shards))
    cache = PixelCache(rows, shards.size, CPU)
    with Loader(TIERS["host"], shards, rows, CPU, threads=2) as loader:
        for batch in loader.eval_batches(rows, Partition(samples=len(rows), batch_size=len(rows))):
            cache.store(0, batch.image)
    return cache


@pytest.mark.usefixtures("_cpu_as_gpu")
@pytest.mark.parametrize("shift", [AugmentConfig().shift, 1.0])
@pytest.mark.parametrize("border", get_args(Border))
def test_the_loaders_stream_from_the_cache_is_that_of_the_host(
    shards: ShardSet, border: Border, shift: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loaders.render_cache._UPLOADED_TOGETHER", 3 * BATCH)
    augment = AugmentConfig(border=border, shift=shift)
    pairs = zip(stream(shards, KEPT, augment=augment), stream(shards, TIERS["host"], augment=augment), strict=True)
    for kept, host in pairs:
        assert (kept.epoch, kept.step) == (host.epoch, host.step)
        for name in TENSORS:
            assert name == "image" or torch.equal(getattr(kept, name), getattr(host, name)), name
        difference = (kept.image.int() - host.image.int()).abs()  # OpenCV interpolates in steps of 1/32 pixel
        assert difference.float().mean() < 0.1
        assert difference.max() <= 4
        params = draw_params(augment, seed=5, epoch=host.epoch, index=host.index.numpy(), size=shards.size)
        copied = torch.from_numpy((params.symmetry >= 0) & ~params.recolour)
        assert torch.equal(kept.image[copied], host.image[copied])


@pytest.mark.usefixtures("_cpu_as_gpu")
def test_images_without_augmentation_are_the_hosts_bytes(shards: ShardSet) -> None:
    rows = np.arange(len(shards))[::-1].copy()
    partition = Partition(samples=len(rows), batch_size=24, pad=False)
    with (
        Loader(KEPT, shards, rows, CPU, threads=2) as kept,
        Loader(TIERS["host"], shards, rows, CPU, threads=2) as host,
    ):
        assert any(remark.startswith(f"loader.cache=gpu: {len(rows):,} images") for remark in kept.remarks)
        pairs = zip(kept.eval_batches(rows, partition), host.eval_batches(rows, partition), strict=True)
        assert [digests([one]) == digests([other]) for one, other in pairs] == [True] * partition.steps


@pytest.mark.usefixtures("_cpu_as_gpu")
def test_the_stream_from_the_cache_is_the_same_at_any_world_size_and_from_any_step(
    shards: ShardSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = digests(list(stream(shards, KEPT)))
    monkeypatch.setattr("loaders.render_cache._UPLOADED_TOGETHER", 3 * BATCH)
    ranks = [list(stream(shards, KEPT, rank=rank, world=2)) for rank in range(2)]
    assert digests([joined(list(parts)) for parts in zip(*ranks, strict=True)]) == whole
    steps = len(whole) // 2
    for step in (0, 1, steps - 1):
        assert digests(list(stream(shards, KEPT, range(1, 2), first_step=step))) == whole[steps + step :]


@pytest.mark.usefixtures("_cpu_as_gpu")
def test_an_abandoned_stream_leaves_nothing_to_the_next(shards: ShardSet) -> None:
    with Loader(KEPT, shards, shards.train_rows(0), CPU, threads=2) as loader:
        abandoned = train_batches(loader, shards)
        next(abandoned)
        again = digests(list(train_batches(loader, shards)))
    assert again == digests(list(stream(shards, KEPT)))


def rendered(source: Source, cache: PixelCache, compiling: bool) -> list[tuple[Request, torch.Tensor]]:
    with closing(CacheRenderer(source, cache, BATCH, compiling=compiling)) as renderer:
        return list(renderer.render(requests_of(source.shards, range(1))))


def arguments(size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    pixels = torch.randint(0, 256, (9, size, size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    drawn = draw_params(AugmentConfig(holes=8), seed=1, epoch=0, index=np.arange(6), size=size)
    return pixels, torch.arange(6).flip(0), torch.from_numpy(packed(drawn, size))


def shifted(size: int) -> tuple[np.ndarray, AugmentParams]:
    """Eight pictures and changes that show much of the border."""
    pixels = np.stack([picture(number, size, size) for number in range(8)])
    return pixels, draw_params(AugmentConfig(shift=0.2), seed=1, epoch=0, index=np.arange(8), size=size)


@pytest.mark.parametrize("size", [64, 160, 256])
@pytest.mark.parametrize("border", get_args(Border))
def test_the_kernel_makes_what_the_host_path_makes(border: Border, size: int) -> None:
    pixels, params = shifted(size)
    expected = np.empty_like(pixels)
    for number, change in enumerate(changes(params, range(8), size, border)):
        load(pixels[number], change, expected[number])
        finish(change, expected[number])
    found = augmented(torch.from_numpy(pixels), torch.arange(8), torch.from_numpy(packed(params, size)), border)
    difference = np.abs(found.numpy().astype(int) - expected)  # OpenCV interpolates in steps of 1/32 pixel
    assert difference.max() <= 4
    assert difference.mean() < 0.1
    assert np.abs(pixels.astype(int) - expected).mean() > 10


@NEEDS_COMPILER
@pytest.mark.parametrize("border", get_args(Border))
def test_inductor_makes_one_kernel_of_it_with_the_same_bytes(border: Border) -> None:
    """So what the test above says of the function holds for the kernel."""
    import torch._inductor.metrics as metrics

    pixels, params = shifted(256)
    given = (torch.from_numpy(pixels), torch.arange(8), torch.from_numpy(packed(params, 256)))
    torch.compiler.reset()
    metrics.reset()
    with torch._inductor.config.patch(fx_graph_cache=False), torch._functorch.config.patch(enable_autograd_cache=False):
        found = compiled()(*given, border)
    assert metrics.generated_kernel_count == 1
    assert torch.equal(found, augmented(*given, border))


@NEEDS_COMPILER
def test_a_stream_is_compiled_once_and_gives_the_same_bytes(shards: ShardSet) -> None:
    from torch._dynamo.utils import counters

    cache, source = cache_of(shards), Source(shards=shards, damage=Damage("fail", 1))
    torch.compiler.reset()
    counters.clear()
    found = rendered(source, cache, True)
    assert counters["stats"]["unique_graphs"] == 1
    for (_, one), (_, other) in zip(found, rendered(source, cache, False), strict=True):
        assert torch.equal(one, other)
    assert len(found) == partition_of(shards).steps


def test_without_a_compiler_the_same_function_runs_uncompiled_and_says_why(
    shards: ShardSet, caplog: pytest.LogCaptureFixture
) -> None:
    cache, source = cache_of(shards), Source(shards=shards, damage=Damage("fail", 1))
    no_compiler: dict[str, Any] = {"cpp.cxx": ("no-such-compiler",), "fx_graph_cache": False}
    torch.compiler.reset()
    with (
        caplog.at_level(logging.WARNING),
        torch._inductor.config.patch(no_compiler),
        torch._functorch.config.patch(enable_autograd_cache=False),
    ):
        found = rendered(source, cache, True)
    (said,) = [record.getMessage() for record in caplog.records if record.name == "loaders.render_cache"]
    assert said.startswith("loader.cache=gpu: augmenting without compilation, which is slower, because torch.compile")
    assert "no-such-compiler" in said
    for (_, one), (_, other) in zip(found, rendered(source, cache, False), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("size", [1, 5, 8, 64])
def test_images_gathered_in_words_are_the_indexed_ones(size: int) -> None:
    pixels = torch.randint(0, 256, (9, size, size, 3), dtype=torch.uint8)
    places = torch.tensor([8, 0, 3, 3])
    found = gathered(pixels, places)
    assert torch.equal(found, pixels[places])
    assert found.is_contiguous()


@pytest.mark.parametrize("border", get_args(Border))
def test_images_of_odd_and_tiny_sizes_are_rendered(border: Border) -> None:
    for size in (1, 2, 7):
        pixels, places, params = arguments(size)
        assert augmented(pixels, places, params, border).shape == (6, size, size, 3)
        plain = torch.zeros_like(params)
        plain[:, [0, 4, 6, 11, 16]] = 1
        assert torch.equal(augmented(pixels, places, plain, border), pixels[places])
