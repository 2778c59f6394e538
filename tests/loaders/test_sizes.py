"""Smaller training images in the first epochs: the same samples and draws, and the same images from every renderer."""

import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, get_args

import cv2
import numpy as np
import pytest
import simplejpeg
import torch
from conftest import picture
from streams import BATCH, CPU, KEPT, TIERS, cpu_as_gpu, digests, joined, partition_of, stream, train_batches

from configs.schema import AugmentConfig, Border, LoaderConfig, ProgressiveConfig
from loaders.augment import draw_params
from loaders.batch import TENSORS
from loaders.damage import Damage
from loaders.decode import UNCHANGED, changes, decode, decoded_edge, finish
from loaders.loader import Loader
from loaders.order import Partition
from loaders.reader import Reader
from loaders.render_cache import augmented, compiled, packed
from loaders.render_dali_gpu import GpuDaliRenderer
from loaders.request import Request, train_requests
from loaders.shards import ShardSet
from loaders.source import Source
from prep.images import store_image

SIZES = (32, 48)  # of images stored in 64 px: one is decoded at half scale, the other is resized by the warp
NOTHING = AugmentConfig(
    hflip=0,
    vflip=0,
    quarter_turn=0,
    shift_scale_rotate=0,
    hue_saturation_value=0,
    brightness_contrast=0,
    coarse_dropout=0,
)


def first_epoch(size: int) -> ProgressiveConfig:
    return ProgressiveConfig(epochs=1, size=size)


@pytest.fixture(scope="module")
def shards(shard_folder: Path) -> Iterator[ShardSet]:
    opened = ShardSet(shard_folder)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def whole(shards: ShardSet) -> dict[int, list[str]]:
    """Two epochs on one rank by the host path, the first one with images of each of the sizes, or of 64 px."""
    return {size: digests(list(stream(shards, TIERS["host"], progressive=first_epoch(size)))) for size in SIZES} | {
        64: digests(list(stream(shards, TIERS["host"])))
    }


@pytest.mark.parametrize("full", [64, 100, 256, 301])
def test_a_warp_shrinks_what_is_decoded_to_more_than_half(full: int) -> None:
    for size in range(-(-full // 8), full + 1):
        edge = decoded_edge(size, full)
        assert size <= edge < 2 * size
        jpeg = simplejpeg.encode_jpeg(np.zeros((full, full, 3), np.uint8))
        out = np.full((edge, edge, 3), 7, np.uint8)
        decode(jpeg, UNCHANGED, out, full)
        assert not out.any()


def test_a_jpeg_of_another_size_is_refused_at_a_reduced_scale_too() -> None:
    out = np.empty((32, 32, 3), np.uint8)
    for other in (32, 128):
        with pytest.raises(ValueError, match=f"it has {other} x {other} pixels, wanted 64 x 64"):
            decode(simplejpeg.encode_jpeg(picture(1, other, other)), UNCHANGED, out, 64)


@pytest.mark.parametrize("size", SIZES)
def test_order_and_labels_do_not_depend_on_the_size_nor_do_the_other_epochs(
    shards: ShardSet, size: int, whole: dict[int, list[str]]
) -> None:
    pairs = zip(
        stream(shards, TIERS["host"], progressive=first_epoch(size)), stream(shards, TIERS["host"]), strict=True
    )
    for smaller, plain in pairs:
        assert smaller.image.shape == (BATCH, *(2 * [64 if smaller.epoch else size]), 3)
        for name in TENSORS:
            assert name == "image" or torch.equal(getattr(smaller, name), getattr(plain, name)), name
    steps = partition_of(shards).steps
    assert whole[size][steps:] == whole[64][steps:]
    assert not set(whole[size][:steps]) & set(whole[64][:steps])


def test_what_is_drawn_is_the_same_in_relation_to_the_image() -> None:
    full, half = (draw_params(AugmentConfig(), seed=1, epoch=0, index=np.arange(500), size=size) for size in (256, 128))
    for name in ("symmetry", "colour", "recolour", "hide_meta"):
        np.testing.assert_array_equal(getattr(half, name), getattr(full, name))
    np.testing.assert_array_equal(half.affine[:, :, :2], full.affine[:, :, :2])
    np.testing.assert_allclose(2 * half.affine[:, :, 2], full.affine[:, :, 2], rtol=1e-6)
    assert np.abs(2 * half.boxes - full.boxes).max() <= 2  # both are whole pixels
    assert full.boxes.any()


@pytest.mark.parametrize("tier", [tier for tier in TIERS if tier != "host"])
@pytest.mark.parametrize("size", SIZES)
def test_every_tier_gives_the_same_bytes(shards: ShardSet, size: int, tier: str, whole: dict[int, list[str]]) -> None:
    assert digests(list(stream(shards, TIERS[tier], progressive=first_epoch(size)))) == whole[size]


@pytest.mark.parametrize("tier", TIERS)
def test_ranks_together_see_the_same_global_batches(shards: ShardSet, tier: str, whole: dict[int, list[str]]) -> None:
    for size in SIZES:
        ranks = [
            list(stream(shards, TIERS[tier], rank=rank, world=2, progressive=first_epoch(size))) for rank in range(2)
        ]
        assert digests([joined(list(parts)) for parts in zip(*ranks, strict=True)]) == whole[size]


@pytest.mark.parametrize("tier", TIERS)
def test_a_stream_resumed_at_any_step_is_the_same_stream(
    shards: ShardSet, tier: str, whole: dict[int, list[str]]
) -> None:
    """Before, at and after the step at which the size changes."""
    steps = partition_of(shards).steps
    for consumed in range(2 * steps):
        epoch, step = divmod(consumed, steps)  # after an epoch's last step the cursor is at its end
        rest = stream(shards, TIERS[tier], range(epoch, 2), first_step=step + 1, progressive=first_epoch(48))
        assert digests(list(rest)) == whole[48][consumed + 1 :]


def test_the_next_epoch_is_requested_in_its_size_before_this_one_ends(
    shards: ShardSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And its images are written into the same memory."""
    requested: list[tuple[int, int]] = []

    def recorded(*arguments: Any, **options: Any) -> Iterator[Request]:
        for request in train_requests(*arguments, **options):
            requested.append((request.epoch, request.size))
            yield request

    monkeypatch.setattr("loaders.loader.train_requests", recorded)
    places: dict[int, set[int]] = {0: set(), 1: set()}
    rows = shards.train_rows(0)
    with Loader(TIERS["host"], shards, rows, CPU, threads=2, progressive=first_epoch(48)) as loader:
        for batch in train_batches(loader, shards):
            places[batch.epoch].add(batch.image.data_ptr())
            if batch.epoch == 0:
                ahead = requested[-1]
    assert ahead == (1, 64)
    assert places[0] == places[1]
    assert len(places[0]) == TIERS["host"].prefetch + 2


def test_evaluation_has_the_full_size_while_training_does_not(shards: ShardSet) -> None:
    rows = np.arange(32)
    for tier in TIERS.values():
        with Loader(tier, shards, rows, CPU, threads=2, progressive=first_epoch(32)) as loader:
            assert next(train_batches(loader, shards)).image.shape[1] == 32 if tier.cache == "none" else True
            (batch,) = loader.eval_batches(rows, Partition(samples=32, batch_size=32))
            with Loader(TIERS["host"], shards, rows, CPU, threads=2) as plain:
                (expected,) = plain.eval_batches(rows, Partition(samples=32, batch_size=32))
                assert torch.equal(batch.image, expected.image)


def test_a_corrupt_sample_is_replaced_by_the_same_one_in_every_size(shard_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    shutil.copytree(shard_folder, folder)
    with closing(ShardSet(folder)) as sound:
        jpeg, bad = bytes(sound.jpeg(30)), 30
    (tar,) = [path for path in folder.glob("*.tar") if jpeg in path.read_bytes()]
    content = bytearray(tar.read_bytes())
    content[content.index(jpeg) + len(jpeg) // 2] ^= 0xFF
    tar.write_bytes(content)
    with closing(ShardSet(folder)) as damaged:
        rows = np.arange(60)

        def indices(cache: Any, progressive: ProgressiveConfig | None) -> list[list[int]]:
            config = LoaderConfig(placement="host", cache=cache, on_bad="substitute")
            with Loader(config, damaged, rows, CPU, threads=2, progressive=progressive) as loader:
                drawn = loader.train_batches(
                    rows, Partition(samples=60, batch_size=12), AugmentConfig(), seed=0, epochs=range(2)
                )
                found = [batch.index.tolist() for batch in drawn]
                assert loader.corrupt_samples == 1
                return found

        expected = indices("none", None)
        assert all(bad not in batch for batch in expected)
        for size in SIZES:
            assert indices("none", first_epoch(size)) == indices("ram", first_epoch(size)) == expected
        source = Source(shards=damaged, damage=Damage("substitute", 1))
        requests = train_requests(
            rows,
            Partition(samples=60, batch_size=12),
            AugmentConfig(),
            seed=0,
            size=64,
            epochs=range(2),
            progressive=ProgressiveConfig(epochs=2, size=32),
        )
        with closing(Reader(source, threads=2, ahead=2)) as reader:
            assert [request.index.tolist() for request, _ in reader.images(requests)] == expected


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("border", get_args(Border))
def test_dalis_whole_graph_makes_the_host_paths_images(shards: ShardSet, border: Border, size: int) -> None:
    """The GPU placement's renderer across the change of size, on DALI's CPU backend, from JPEGs and from pixels."""
    augment = AugmentConfig(border=border)
    rows, partition = np.arange(24), Partition(samples=24, batch_size=12)
    with Loader(TIERS["host"], shards, rows, CPU, threads=2, progressive=first_epoch(size)) as host:
        drawn = host.train_batches(rows, partition, augment, seed=2, epochs=range(2))
        expected = [batch.image.clone() for batch in drawn]
    with Loader(TIERS["host, ram"], shards, rows, CPU, threads=2, progressive=first_epoch(size)) as filled:
        cache = filled._source.cache
    for kept in (None, cache):
        source = Source(shards=shards, damage=Damage("fail", 1), cache=kept)
        requests = train_requests(
            rows, partition, augment, seed=2, size=64, epochs=range(2), progressive=first_epoch(size)
        )
        with (
            closing(Reader(source, threads=2, ahead=2)) as reader,
            closing(
                GpuDaliRenderer(source, reader, 12, decode="cpu", threads=2, prefetch=2, device=CPU, hw_decoder_load=0)
            ) as renderer,
        ):
            found = [images.clone() for _, images in renderer.render(requests)]
        for ours, host_image in zip(found, expected, strict=True):
            assert ours.shape == host_image.shape
            difference = (ours.int() - host_image.int()).abs().float()
            inside = len(host_image[0]) // 4
            assert difference[:, inside:-inside, inside:-inside].mean() < 1
            assert difference.mean() < 2


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("border", get_args(Border))
def test_the_loaders_stream_from_the_cache_is_that_of_the_host(
    shards: ShardSet, border: Border, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loaders.loader.chosen_placement", cpu_as_gpu)
    augment, progressive = AugmentConfig(border=border), first_epoch(size)
    kept = stream(shards, KEPT, augment=augment, progressive=progressive)
    host = stream(shards, TIERS["host"], augment=augment, progressive=progressive)
    for one, other in zip(kept, host, strict=True):
        assert torch.equal(one.index, other.index)
        assert one.image.shape == other.image.shape
        difference = (one.image.int() - other.image.int()).abs()  # OpenCV interpolates in steps of 1/32 pixel
        assert difference.float().mean() < 0.1
        assert difference.max() <= 4


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_inductor_makes_one_kernel_of_a_resizing_warp_with_the_same_bytes() -> None:
    import torch._inductor.metrics as metrics

    pixels = torch.randint(0, 256, (9, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    drawn = draw_params(AugmentConfig(), seed=1, epoch=0, index=np.arange(6), size=48)
    given = pixels, torch.arange(6), torch.from_numpy(packed(drawn, 48, 64)), "constant", 48
    torch.compiler.reset()
    metrics.reset()
    with torch._inductor.config.patch(fx_graph_cache=False), torch._functorch.config.patch(enable_autograd_cache=False):
        found = compiled()(*given)
    assert metrics.generated_kernel_count == 1
    assert found.shape == (6, 48, 48, 3)
    assert torch.equal(found, augmented(*given))


@pytest.mark.parametrize("size", [64, 128, 160, 224])
def test_smaller_real_images_are_those_of_area_averaging(isic_sample: Path, size: int) -> None:
    """Mean absolute difference from OpenCV's INTER_AREA of the whole image, in levels of 255: on average under a half,
    in the hairiest picture under two. A shift by a quarter of a pixel would double both."""
    paths = sorted((isic_sample / "2020" / "jpeg" / "train").glob("*.jpg"))[:12]
    paths += sorted((isic_sample / "2019" / "ISIC_2019_Training_Input").glob("*.jpg"))[:12]
    params = draw_params(NOTHING, seed=0, epoch=0, index=np.arange(1), size=size)
    (change,) = changes(params, range(1), size, edge=decoded_edge(size, 256))
    found = []
    for path in paths:
        jpeg = store_image(path.read_bytes(), size=256, fit="squash", quality=90, subsampling="420").jpeg
        out = np.empty((size, size, 3), np.uint8)
        decode(jpeg, change, out, 256)
        finish(change, out)
        expected = cv2.resize(simplejpeg.decode_jpeg(jpeg), (size, size), interpolation=cv2.INTER_AREA)
        found.append(np.abs(out.astype(int) - expected).mean())
    assert len(found) == 24
    assert np.mean(found) < 0.5
    assert max(found) < 2


def test_a_cache_keeps_both_sizes_and_counts_them(shards: ShardSet) -> None:
    rows = np.arange(20)
    with Loader(TIERS["host, ram"], shards, rows, CPU, threads=2, progressive=first_epoch(32)) as loader:
        cache = loader._source.cache
        assert cache is not None
        assert cache.bytes == 20 * 3 * (64 * 64 + 32 * 32)
    with Loader(TIERS["host, ram"], shards, rows, CPU, threads=2, progressive=first_epoch(48)) as loader:
        assert loader._source.cache is not None
        assert loader._source.cache.bytes == 20 * 3 * 64 * 64
