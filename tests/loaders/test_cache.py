from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import torch
from streams import CPU

import loaders.cache as cache
from configs.errors import UserError
from configs.machine import available_memory
from configs.schema import LoaderConfig
from loaders.loader import Loader
from loaders.order import Partition
from loaders.shards import ShardSet

RAM = LoaderConfig(cache="ram")


def test_images_are_found_by_row_number(shard_folder: Path) -> None:
    shards, rows = ShardSet(shard_folder), np.array([90, 7, 55, 7])
    with Loader(RAM, shards, rows, CPU, threads=1) as loader:
        assert "3 images" in loader.remarks[0]
        (cached,) = loader.eval_batches(np.array([55, 90]), Partition(samples=2, batch_size=2))
        for index, image in zip((55, 90), cached.image, strict=True):
            np.testing.assert_array_equal(image.numpy(), simplejpeg.decode_jpeg(shards.jpeg(index)))
    kept = cache.PixelCache(rows, 64, CPU)
    kept.store(0, torch.arange(3, dtype=torch.uint8)[:, None, None, None].expand(3, 64, 64, 3))
    assert [int(kept.image(index).max()) for index in (7, 55, 90)] == [0, 1, 2]
    assert kept.images(np.array([90, 7]))[:, 0, 0, 0].tolist() == [2, 0]


def test_a_set_that_does_not_fit_is_refused_with_the_sizes(shard_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "available_memory", lambda: 4_000_000)
    shards = ShardSet(shard_folder)
    with Loader(RAM, shards, np.arange(140), CPU, threads=1, ranks_here=1):
        pass  # 140 x 64 x 64 x 3 bytes are 1.7 MB, of 3.2 MB that may be used
    with pytest.raises(
        UserError, match=r"0\.0 GB for 140 images on each of 2 ranks, but may use only 80% of the 0\.0 GB"
    ):
        Loader(RAM, shards, np.arange(140), CPU, threads=1, ranks_here=2)


def test_available_memory_is_of_a_plausible_size() -> None:
    assert 2**28 < available_memory() < 2**50


def written(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


MEMINFO = {"proc/meminfo": "MemTotal:  64000 kB\nMemAvailable:   50000 kB\n"}


def test_the_tightest_control_group_above_this_process_bounds_it(tmp_path: Path) -> None:
    top, job = "sys/fs/cgroup", "sys/fs/cgroup/slurm/job7"
    files = {
        "proc/self/cgroup": "0::/slurm/job7/step\n",
        f"{job}/memory.max": "9000000\n",
        f"{job}/memory.current": "5000000\n",
        f"{job}/memory.stat": "anon 100\nfile 3000000\nshmem 1000000\n",
        f"{top}/slurm/memory.max": "max\n",
        f"{top}/slurm/memory.current": "5000000\n",
        f"{top}/slurm/memory.stat": "file 1\n",
    }
    root = written(tmp_path, {**MEMINFO, **files})
    # What is left of the limit, and the page cache, which can be freed, except for /dev/shm.
    assert available_memory(root) == 9_000_000 - 5_000_000 + 2_000_000


def test_control_groups_of_version_1_and_none_at_all(tmp_path: Path) -> None:
    assert available_memory(written(tmp_path / "none", MEMINFO)) == 50_000 * 1024
    top = "sys/fs/cgroup/memory"
    files = {
        "proc/self/cgroup": "5:cpu:/other\n4:memory:/docker/abc\n",
        f"{top}/memory.limit_in_bytes": "4000000\n",
        f"{top}/memory.usage_in_bytes": "1000000\n",
        f"{top}/memory.stat": "total_cache 500000\n",
    }
    assert available_memory(written(tmp_path / "one", {**MEMINFO, **files})) == 3_500_000
