"""Readers of others take the shards as they are, and every one of them reads the same samples."""

import io
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import simplejpeg
import webdataset
from reference import reference_samples

from loaders.shards import ShardSet

Facts = dict[str, Any]


class Sample(NamedTuple):
    """What a reader gives of a sample: file name without ending, JPEG bytes, json, npy and cls."""

    key: str
    jpeg: bytes
    facts: Facts
    meta: list[float]
    target: int


@pytest.fixture(scope="module")
def shards(shard_folder: Path) -> ShardSet:
    return ShardSet(shard_folder)


@pytest.fixture(scope="module")
def tars(shards: ShardSet) -> list[Path]:
    return [shards.folder / entry.file for entry in shards.manifest.shards]


def require_equal(samples: list[Sample], shards: ShardSet) -> None:
    assert len(samples) == len(shards) == 149
    for index, sample in enumerate(samples):
        assert sample.key == sample.facts["key"] == shards.key[index].as_py()
        assert sample.jpeg == bytes(shards.jpeg(index))
        assert sample.meta == shards.meta("clinical")[index].tolist()
        assert sample.target == sample.facts["target"] == shards.target[index]
        assert (sample.facts["source"], sample.facts["fold"]) == (shards.source[index], shards.fold[index])


def vector(content: bytes) -> list[float]:
    return list(np.load(io.BytesIO(content)).tolist())


def test_webdataset_reads_every_sample(tars: list[Path], shards: ShardSet) -> None:
    samples = [
        Sample(one["__key__"], one["jpg"], json.loads(one["json"]), vector(one["npy"]), int(one["cls"]))
        for one in webdataset.WebDataset([str(tar) for tar in tars], shardshuffle=False)
    ]
    require_equal(samples, shards)


def test_dali_reads_every_sample_by_the_index_files(tars: list[Path], shards: ShardSet) -> None:
    dali = pytest.importorskip("nvidia.dali")
    pipeline = dali.Pipeline(batch_size=len(shards), num_threads=1, device_id=None)
    with pipeline:
        pipeline.set_outputs(
            *dali.fn.readers.webdataset(
                paths=[str(tar) for tar in tars],
                index_paths=[str(tar.with_suffix(".idx")) for tar in tars],
                ext=["jpg", "json", "npy", "cls"],
                random_shuffle=False,
            )
        )
    pipeline.build()
    columns = [[part.at(index).tobytes() for index in range(len(shards))] for part in pipeline.run()]
    samples = []
    for jpeg, facts_json, npy, cls in zip(*columns, strict=True):
        facts = json.loads(facts_json)
        samples.append(Sample(facts["key"], jpeg, facts, vector(npy), int(cls)))
    require_equal(samples, shards)


def test_hugging_face_datasets_reads_every_sample(
    tars: list[Path], shards: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    files = {"train": [str(tar) for tar in tars]}
    found = datasets.load_dataset("webdataset", data_files=files, split="train", cache_dir=str(tmp_path))
    found = found.cast_column("jpg", datasets.Image(decode=False))
    samples = [
        Sample(one["__key__"], one["jpg"]["bytes"], one["json"], [np.float32(x) for x in one["npy"]], one["cls"])
        for one in found
    ]
    require_equal(samples, shards)


def test_our_yardstick_reads_the_same_pixels(tars: list[Path], shards: ShardSet) -> None:
    for index, sample in enumerate(reference_samples(tars)):
        assert sample["key"] == shards.key[index].as_py()
        np.testing.assert_array_equal(sample["meta"].numpy(), shards.meta("clinical")[index])
        ours = simplejpeg.decode_jpeg(shards.jpeg(index))
        assert np.abs(sample["image"].numpy().astype(int) - ours).mean() < 1
    assert index == len(shards) - 1
