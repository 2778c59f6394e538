"""The GPU placements against the host path and against each other; on a machine with CUDA."""

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from streams import BATCH, TIERS, digests, joined, stream

from configs.schema import AugmentConfig, Border, LoaderConfig, ProgressiveConfig
from loaders.augment import draw_params
from loaders.loader import Loader
from loaders.order import Partition
from loaders.render_cache import augmented, compiled, packed
from loaders.shards import ShardSet

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
GPU = {
    "mixed": LoaderConfig(placement="dali-gpu"),
    "cpu decode": LoaderConfig(placement="dali-gpu", decode="cpu"),
    "mixed, gpu": LoaderConfig(placement="dali-gpu", cache="gpu"),
    "mixed, ram": LoaderConfig(placement="dali-gpu", cache="ram"),
    "cpu decode, gpu": LoaderConfig(placement="dali-gpu", decode="cpu", cache="gpu"),
}


@pytest.fixture
def shards(shard_folder: Path) -> ShardSet:
    return ShardSet(shard_folder)


@pytest.fixture
def cuda() -> torch.device:
    return torch.device("cuda", 0)


@pytest.mark.parametrize("tier", GPU)
def test_gpu_images_are_close_to_the_host_paths(shards: ShardSet, tier: str, cuda: torch.device) -> None:
    for gpu, host in zip(stream(shards, GPU[tier], device=cuda), stream(shards, TIERS["host"]), strict=True):
        assert torch.equal(gpu.index, host.index)
        assert torch.equal(gpu.meta, host.meta)
        assert (gpu.image.int() - host.image.int()).abs().float().mean() <= 2


@pytest.mark.parametrize("tier", GPU)
@pytest.mark.parametrize("size", [32, 48])
def test_smaller_images_are_close_to_the_host_paths(shards: ShardSet, tier: str, size: int, cuda: torch.device) -> None:
    smaller = ProgressiveConfig(epochs=1, size=size)
    host = stream(shards, TIERS["host"], progressive=smaller)
    for gpu, ours in zip(stream(shards, GPU[tier], device=cuda, progressive=smaller), host, strict=True):
        assert gpu.image.shape == ours.image.shape
        assert torch.equal(gpu.index, ours.index)
        assert (gpu.image.int() - ours.image.int()).abs().float().mean() <= 2


@pytest.mark.parametrize("tier", ["mixed", "mixed, gpu"])
@pytest.mark.parametrize("border", ["reflect", "edge"])
def test_the_gpu_shows_the_host_paths_border(shards: ShardSet, tier: str, border: Border, cuda: torch.device) -> None:
    augment = AugmentConfig(border=border, shift=0.5)
    host = stream(shards, TIERS["host"], augment=augment)
    for gpu, ours in zip(stream(shards, GPU[tier], device=cuda, augment=augment), host, strict=True):
        assert (gpu.image.int() - ours.image.int()).abs().float().mean() <= 2


@pytest.mark.parametrize("tier", GPU)
def test_images_without_augmentation_are_close_to_the_host_paths(
    shards: ShardSet, tier: str, cuda: torch.device
) -> None:
    rows = np.arange(96)
    partition = Partition(samples=96, batch_size=24)
    with (
        Loader(GPU[tier], shards, rows, cuda, threads=2) as gpu,
        Loader(TIERS["host"], shards, rows, torch.device("cpu"), threads=2) as host,
    ):
        pairs = zip(gpu.eval_batches(rows, partition), host.eval_batches(rows, partition), strict=True)
        for ours, theirs in pairs:
            assert ours.image.device == cuda
            assert (ours.image.cpu().int() - theirs.image.int()).abs().float().mean() <= 2


def test_pixels_cached_in_ram_give_the_same_bytes_as_decoding_again(shards: ShardSet, cuda: torch.device) -> None:
    expected = digests(list(stream(shards, GPU["mixed"], device=cuda)))
    assert digests(list(stream(shards, GPU["mixed, ram"], device=cuda))) == expected


@pytest.mark.parametrize("decode", ["mixed", "cpu decode"])
def test_pixels_cached_on_the_gpu_are_those_that_were_decoded(
    shards: ShardSet, decode: str, cuda: torch.device
) -> None:
    rows = np.arange(96)
    partition = Partition(samples=96, batch_size=24)
    with (
        Loader(GPU[decode], shards, rows, cuda, threads=2) as decoded,
        Loader(GPU[f"{decode}, gpu"], shards, rows, cuda, threads=2) as kept,
    ):
        pairs = zip(decoded.eval_batches(rows, partition), kept.eval_batches(rows, partition), strict=True)
        assert all(torch.equal(one.image, other.image) for one, other in pairs)


@pytest.mark.parametrize("border", get_args(Border))
def test_one_kernel_over_cached_pixels_gives_what_the_cpu_gives(border: Border, cuda: torch.device) -> None:
    import torch._inductor.metrics as metrics

    pixels = torch.randint(0, 256, (9, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    drawn = draw_params(AugmentConfig(border=border), seed=1, epoch=0, index=np.arange(32), size=64)
    given = pixels, torch.arange(32) % 9, torch.from_numpy(packed(drawn, 64))
    expected = augmented(*given, border).int()
    torch.compiler.reset()
    metrics.reset()
    with torch._inductor.config.patch(fx_graph_cache=False), torch._functorch.config.patch(enable_autograd_cache=False):
        found = compiled()(*(tensor.to(cuda) for tensor in given), border).cpu().int()
    assert metrics.generated_kernel_count == 1
    # A GPU rounds a product and a sum once, a CPU twice, so here and there a value rounds the other way.
    assert (found - expected).abs().max() <= 4
    assert (found != expected).float().mean() < 0.02


@pytest.mark.parametrize("tier", ["mixed", "cpu decode", "mixed, gpu"])
def test_the_gpus_stream_is_the_same_at_any_world_size_and_from_any_step(
    shards: ShardSet, tier: str, cuda: torch.device
) -> None:
    whole = digests(list(stream(shards, GPU[tier], device=cuda)))
    ranks = [list(stream(shards, GPU[tier], rank=rank, world=2, device=cuda)) for rank in range(2)]
    assert digests([joined(list(parts)) for parts in zip(*ranks, strict=True)]) == whole
    steps = len(whole) // 2
    for step in (0, 1, steps - 1):
        resumed = stream(shards, GPU[tier], range(1, 2), first_step=step, device=cuda)
        assert digests(list(resumed)) == whole[steps + step :]


@pytest.mark.parametrize("tier", ["host", "dali-cpu", "host, ram"])
def test_batches_reach_the_gpu_intact_while_it_is_busy(shards: ShardSet, tier: str, cuda: torch.device) -> None:
    expected = digests(list(stream(shards, TIERS[tier])))
    work = torch.randn(4096, 4096, device=cuda)
    seen = []
    for batch in stream(shards, TIERS[tier], device=cuda):
        for _ in range(20):
            work = torch.tanh(work @ work)
        seen.append(batch)
    assert digests(seen) == expected


@pytest.mark.parametrize("tier", GPU)
def test_gpu_memory_does_not_grow_over_ten_epochs(shards: ShardSet, tier: str, cuda: torch.device) -> None:
    free = []
    for batch in stream(shards, GPU[tier], range(10), device=cuda):
        if batch.step == 0:
            torch.cuda.synchronize()
            free.append(torch.cuda.mem_get_info(cuda)[0])
    assert free[2] - free[-1] < 8 * 2**20 * BATCH / 16, free
