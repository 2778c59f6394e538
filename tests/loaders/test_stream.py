"""The stream as a whole: the same samples and pixels whatever renders them, on any number of ranks."""

import gc
import hashlib
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from configs.errors import UserError
from configs.schema import AugmentConfig, LoaderConfig
from loaders.augment import draw_params
from loaders.dali import DaliPipeline
from loaders.host import HostRenderer
from loaders.order import Partition
from loaders.placement import open_renderer
from loaders.reference import reference_samples
from loaders.shards import ShardSet
from loaders.stream import Batch, Request, batches, eval_requests, train_requests
from prep.metadata import hide_clinical

CPU = torch.device("cpu")
PLACEMENTS = ("host", "dali-cpu")


@pytest.fixture(scope="module")
def shards(shard_folder: Path) -> Iterator[ShardSet]:
    opened = ShardSet(shard_folder)
    yield opened
    opened.close()


def stream(
    shards: ShardSet, placement: str, epochs: range = range(2), first_step: int = 0, rank: int = 0, world: int = 1
) -> Iterator[Batch]:
    """Training batches of 16 over the rows outside fold 0, copied out of the renderer's buffers."""
    rows = shards.train_rows(0)
    partition = Partition(samples=len(rows), batch_size=16, rank=rank, world_size=world)
    requests = train_requests(
        rows, partition, AugmentConfig(), seed=5, size=shards.size, epochs=epochs, first_step=first_step
    )
    config = LoaderConfig(placement=placement)  # type: ignore[arg-type]
    with open_renderer(config, shards, partition.local_batch_size, CPU, threads=2) as renderer:
        for batch in batches(shards, "clinical", renderer, requests, CPU):
            yield replace(batch, image=batch.image.clone())


def digests(items: list[Batch]) -> list[str]:
    parts = ("image", "meta", "target", "index", "valid")
    return [
        hashlib.sha256(b"".join(getattr(item, part).numpy().tobytes() for part in parts)).hexdigest() for item in items
    ]


def joined(parts: list[Batch]) -> Batch:
    names = ("image", "meta", "target", "index", "valid")
    return replace(parts[0], **{name: torch.cat([getattr(part, name) for part in parts]) for name in names})


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_every_sample_comes_once_an_epoch_with_its_own_label(shards: ShardSet, placement: str) -> None:
    seen = list(stream(shards, placement, range(1)))
    index = torch.cat([batch.index[batch.valid] for batch in seen]).numpy()
    target = torch.cat([batch.target[batch.valid] for batch in seen]).numpy()
    np.testing.assert_array_equal(np.sort(index), shards.train_rows(0))
    np.testing.assert_array_equal(target, shards.target[index])
    assert all(batch.image.shape == (16, 64, 64, 3) and batch.image.dtype == torch.uint8 for batch in seen)


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("world", [2, 4])
def test_ranks_together_see_the_same_global_batches(shards: ShardSet, placement: str, world: int) -> None:
    whole = list(stream(shards, placement))
    ranks = [list(stream(shards, placement, rank=rank, world=world)) for rank in range(world)]
    assert digests([joined(list(parts)) for parts in zip(*ranks, strict=True)]) == digests(whole)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_stream_taken_up_at_any_step_is_the_same_stream(shards: ShardSet, placement: str) -> None:
    whole = digests(list(stream(shards, placement)))
    steps = len(whole) // 2
    for step in (0, 1, steps - 1):
        assert digests(list(stream(shards, placement, range(1, 2), first_step=step))) == whole[steps + step :]


def test_placements_show_the_same_pictures(shards: ShardSet) -> None:
    for host, dali in zip(*(stream(shards, placement) for placement in PLACEMENTS), strict=True):
        assert torch.equal(host.index, dali.index)
        assert torch.equal(host.meta, dali.meta)
        assert (host.image.int() - dali.image.int()).abs().float().mean() < 0.5


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_plain_pictures_are_those_of_pillow(shards: ShardSet, placement: str) -> None:
    tars = [shards.folder / entry.file for entry in shards.manifest.shards]
    expected = [sample["image"] for sample in reference_samples(tars)]
    rows = np.arange(len(shards))
    with open_renderer(LoaderConfig(placement=placement), shards, 10, CPU, threads=2) as renderer:  # type: ignore[arg-type]
        requests = eval_requests(rows, Partition(samples=len(rows), batch_size=10))
        for batch in batches(shards, "clinical", renderer, requests, CPU):
            for image, index, valid in zip(batch.image, batch.index, batch.valid, strict=True):
                assert not valid or (image.int() - expected[index].int()).abs().float().mean() < 3


def test_dalis_whole_graph_makes_the_host_paths_pictures(shards: ShardSet) -> None:
    """The graph that runs on a GPU, here on DALI's CPU backend, against OpenCV: inside the picture and at its edge."""
    pipeline = DaliPipeline(
        shards, 24, augment=True, device="cpu", device_id=None, threads=2, prefetch=2, hw_decoder_load=0.0
    )
    rows, partition = np.arange(48), Partition(samples=48, batch_size=24)

    def requests() -> Iterator[Request]:
        return train_requests(rows, partition, AugmentConfig(), seed=2, size=shards.size, epochs=range(1))

    with open_renderer(LoaderConfig(placement="host"), shards, 24, CPU, threads=2) as host:
        pairs = zip(pipeline.run(requests()), host.render(requests()), strict=True)
        for (_, dali), (_, ours) in pairs:
            difference = np.abs(dali.as_array().astype(int) - ours.numpy().astype(int))
            assert difference[:, 16:-16, 16:-16].mean() < 1
            assert difference.mean() < 2


def test_hidden_metadata_is_that_of_the_drawn_samples(shards: ShardSet) -> None:
    batch = next(stream(shards, "host"))
    params = draw_params(AugmentConfig(), seed=5, epoch=0, index=batch.index.numpy(), size=shards.size)
    expected = shards.meta[batch.index.numpy()]
    expected[params.hide_meta] = hide_clinical("clinical", expected[params.hide_meta])
    np.testing.assert_array_equal(batch.meta.numpy(), expected)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_damaged_jpeg_is_named_with_shard_key_and_offset(shards: ShardSet, placement: str, tmp_path: Path) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(shards.folder, folder)
    key, shard, offset = shards.key[3].as_py(), shards.manifest.shards[0].file, int(shards._offset[3])
    content = bytearray((folder / shard).read_bytes())
    content[offset + 200] ^= 1
    (folder / shard).write_bytes(content)
    damaged = ShardSet(folder)
    requests = eval_requests(np.arange(16), Partition(samples=16, batch_size=8))
    with open_renderer(LoaderConfig(placement=placement), damaged, 8, CPU, threads=2) as renderer:  # type: ignore[arg-type]
        spoilt = batches(damaged, "clinical", renderer, requests, CPU)
        with pytest.raises(UserError, match=rf"{shard}: sample {key} at byte {offset} is damaged"):
            list(spoilt)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_an_abandoned_run_leaves_nothing_to_the_next_one(shards: ShardSet, placement: str) -> None:
    rows = np.arange(64)
    partition = Partition(samples=64, batch_size=8)
    with open_renderer(LoaderConfig(placement=placement), shards, 8, CPU, threads=2) as renderer:  # type: ignore[arg-type]
        broken = batches(shards, "clinical", renderer, eval_requests(rows, partition), CPU)
        next(broken)
        broken.close()  # type: ignore[attr-defined]
        gc.collect()
        whole = [
            batch.index.numpy() for batch in batches(shards, "clinical", renderer, eval_requests(rows, partition), CPU)
        ]
    np.testing.assert_array_equal(np.concatenate(whole), rows)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_threads_end_with_the_renderer(shards: ShardSet, placement: str) -> None:
    list(stream(shards, placement, range(1)))
    assert not [thread for thread in threading.enumerate() if "renderer" in thread.name]


def test_without_dali_the_host_path_serves_and_dali_says_why(shards: ShardSet, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("loaders.dali", "loaders.placement"):
        monkeypatch.setattr(f"{module}.require_dali", lambda: "NVIDIA DALI is not installed")
    with open_renderer(LoaderConfig(), shards, 8, CPU, threads=1) as renderer:
        assert isinstance(renderer, HostRenderer)
    with pytest.raises(UserError, match="not installed"):
        open_renderer(LoaderConfig(placement="dali-cpu"), shards, 8, CPU, threads=1).__enter__()


def test_the_gpu_placement_without_a_gpu_names_the_others(shards: ShardSet) -> None:
    with pytest.raises(UserError, match="needs a CUDA GPU: take dali-cpu, host or auto"):
        open_renderer(LoaderConfig(placement="dali-gpu"), shards, 8, CPU, threads=1).__enter__()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_gpu_shows_the_host_paths_pictures(shards: ShardSet) -> None:
    rows, partition, cuda = np.arange(96), Partition(samples=96, batch_size=24), torch.device("cuda", 0)

    def pictures(placement: str, device: torch.device) -> Iterator[torch.Tensor]:
        requests = train_requests(rows, partition, AugmentConfig(), seed=2, size=shards.size, epochs=range(2))
        with open_renderer(LoaderConfig(placement=placement), shards, 24, device, threads=2) as renderer:  # type: ignore[arg-type]
            for batch in batches(shards, "clinical", renderer, requests, device):
                yield batch.image.cpu()

    for gpu, host in zip(pictures("dali-gpu", cuda), pictures("host", CPU), strict=True):
        assert (gpu.int() - host.int()).abs().float().mean() < 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_gpu_shows_the_host_paths_plain_pictures(shards: ShardSet) -> None:
    rows, partition, cuda = np.arange(96), Partition(samples=96, batch_size=24), torch.device("cuda", 0)
    with (
        open_renderer(LoaderConfig(placement="dali-gpu"), shards, 24, cuda, threads=2) as gpu,
        open_renderer(LoaderConfig(placement="host"), shards, 24, CPU, threads=2) as host,
    ):
        for (_, ours), (_, theirs) in zip(
            gpu.render(eval_requests(rows, partition)), host.render(eval_requests(rows, partition)), strict=True
        ):
            assert (ours.cpu().int() - theirs.int()).abs().float().mean() < 2
