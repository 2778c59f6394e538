"""Corrupt samples, whose bytes are not those that prep wrote."""

import logging
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from streams import BATCH, CPU, KEPT, TIERS, cpu_as_gpu, digests, joined, our_threads, stream

from configs.errors import UserError
from configs.schema import LoaderConfig
from loaders.batch import TENSORS, Batch
from loaders.loader import Loader
from loaders.order import Partition
from loaders.shards import ShardSet

BAD = (3, 40, 41)  # places among the rows outside fold 0


def bad(shards: ShardSet) -> list[int]:
    return shards.train_rows(0)[list(BAD)].tolist()


@pytest.fixture(scope="module")
def corrupt(shard_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    """The small shard set with one bit flipped in each of three training samples."""
    folder = tmp_path_factory.mktemp("corrupt") / "set"
    shutil.copytree(shard_folder, folder)
    shards = ShardSet(folder)
    for index in bad(shards):
        path = folder / shards._files[shards._file[index]]
        content = bytearray(path.read_bytes())
        content[int(shards._offset[index]) + 200] ^= 1
        path.write_bytes(content)
    return ShardSet(folder)


def substituting(tier: str, most: int = 10) -> LoaderConfig:
    return replace(TIERS[tier], on_bad="substitute", max_bad=most)


def evaluated(shards: ShardSet, config: LoaderConfig, rows: np.ndarray) -> list[Batch]:
    with Loader(config, shards, rows, CPU, threads=2) as loader:
        seen = list(loader.eval_batches(rows, Partition(samples=len(rows), batch_size=BATCH)))
        assert loader.corrupt_samples == len(bad(shards))
    return seen


@pytest.mark.parametrize("tier", TIERS)
def test_by_default_the_first_one_ends_the_run_and_is_named(corrupt: ShardSet, tier: str) -> None:
    rows, first = corrupt.train_rows(0)[:16], bad(corrupt)[0]
    offset, shard = int(corrupt._offset[first]), corrupt._files[corrupt._file[first]]
    with pytest.raises(UserError, match=rf"{shard}: sample {corrupt.key[first]} at byte {offset} is corrupt"):
        evaluated(corrupt, TIERS[tier], rows)


@pytest.mark.parametrize("tier", TIERS)
def test_a_stand_in_is_the_same_from_every_tier_and_at_any_world_size(corrupt: ShardSet, tier: str) -> None:
    expected = digests(list(stream(corrupt, substituting("host"))))
    assert digests(list(stream(corrupt, substituting(tier)))) == expected
    ranks = [list(stream(corrupt, substituting(tier), rank=rank, world=2)) for rank in range(2)]
    assert digests([joined(list(parts)) for parts in zip(*ranks, strict=True)]) == expected


def test_a_stand_in_comes_from_the_same_rows_with_its_own_label(
    corrupt: ShardSet, shard_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    intact = list(stream(ShardSet(shard_folder), TIERS["host"]))
    with caplog.at_level(logging.WARNING):
        seen = list(stream(corrupt, substituting("host")))
    assert len(seen) == len(intact)
    replaced = 0
    for batch, whole in zip(seen, intact, strict=True):
        assert batch.valid.tolist() == whole.valid.tolist()
        other = batch.index != whole.index
        assert set(whole.index[other].tolist()) <= set(bad(corrupt))
        replaced += int(other.sum())
        np.testing.assert_array_equal(batch.target.numpy(), corrupt.target[batch.index.numpy()])
        assert torch.equal(batch.image[~other], whole.image[~other])
        assert not set(batch.index.tolist()) & set(bad(corrupt))
        assert np.isin(batch.index.numpy(), corrupt.train_rows(0)).all()
    assert replaced >= 2 * len(BAD)
    assert len(caplog.records) == len(BAD), "each corrupt sample is logged once"


@pytest.mark.parametrize("tier", TIERS)
def test_an_evaluation_leaves_corrupt_samples_out(corrupt: ShardSet, tier: str) -> None:
    rows = np.arange(140)
    seen = evaluated(corrupt, substituting(tier), rows)
    counted = torch.cat([batch.index[batch.valid] for batch in seen]).tolist()
    assert sorted(counted) == sorted(set(rows.tolist()) - set(bad(corrupt)))


def test_pixels_kept_on_the_gpu_have_the_same_stand_ins(corrupt: ShardSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loaders.loader.chosen_placement", cpu_as_gpu)
    kept, host, rows = replace(KEPT, on_bad="substitute", max_bad=10), substituting("host"), np.arange(140)
    pairs = [*zip(stream(corrupt, kept), stream(corrupt, host), strict=True)]
    pairs += zip(evaluated(corrupt, kept, rows), evaluated(corrupt, host, rows), strict=True)
    for one, other in pairs:
        for name in TENSORS:
            assert name == "image" or torch.equal(getattr(one, name), getattr(other, name)), name


@pytest.mark.parametrize("tier", TIERS)
def test_too_many_of_them_end_the_run(corrupt: ShardSet, tier: str) -> None:
    message = r"3 corrupt samples exceed loader\.max_bad=2; the last one: .* is corrupt"
    with pytest.raises(UserError, match=message) as raised:
        list(stream(corrupt, substituting(tier, most=2), range(2)))
    assert not our_threads(), f"while {raised.tb} keeps what the stream was made of"


def test_corrupt_stand_ins_are_skipped_until_none_is_left(corrupt: ShardSet) -> None:
    rows = np.array(bad(corrupt))
    with (
        Loader(substituting("host"), corrupt, rows, CPU, threads=1) as loader,
        pytest.raises(UserError, match="64 stand-ins for a corrupt sample are corrupt too"),
    ):
        list(loader.eval_batches(rows, Partition(samples=3, batch_size=3)))
