"""A shard set is checked when it is opened, and a sample when it is read: nothing is trusted unread."""

import json
import os
import random
import socket
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import simplejpeg
from conftest import picture
from sets import change_manifest, change_samples, linked_set, replace_file, with_value, within
from streams import CPU, TIERS

from configs.errors import UserError
from loaders.loader import Loader
from loaders.order import Partition
from loaders.shards import CorruptSampleError, ShardSet
from prep.manifest import DIGEST, MANIFEST, SAMPLES, _digest, read_manifest
from prep.samples import SampleTable

ROW = 5


@pytest.fixture
def folder(shard_folder: Path, tmp_path: Path) -> Path:
    return linked_set(shard_folder, tmp_path / "set")


def refusal(folder: Path) -> str:
    """What opening the set says; one line that names the folder."""
    with pytest.raises(UserError) as raised:
        ShardSet(folder).close()
    message = str(raised.value)
    assert "\n" not in message
    assert str(folder) in message
    return message


@pytest.mark.parametrize("name", [SAMPLES, MANIFEST])
def test_a_flipped_bit_anywhere_is_refused(folder: Path, name: str) -> None:
    whole, draws = (folder / name).read_bytes(), random.Random(0)
    for _ in range(300):
        place, bit = draws.randrange(len(whole)), draws.randrange(8)
        content = bytearray(whole)
        content[place] ^= 1 << bit
        replace_file(folder / name, bytes(content))
        assert str(folder / name) in refusal(folder), (place, bit)


@pytest.mark.parametrize("name", [SAMPLES, MANIFEST])
def test_a_file_cut_short_anywhere_is_refused(folder: Path, name: str) -> None:
    whole, draws = (folder / name).read_bytes(), random.Random(0)
    for length in [0, 1, 4, *(draws.randrange(len(whole) - 1) for _ in range(40))]:
        replace_file(folder / name, whole[:length])
        assert str(folder / name) in refusal(folder), length


def edited(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Edit manifest.json, and its own digest with it."""
    record = json.loads((folder / MANIFEST).read_text())
    del record[DIGEST]
    change(record)
    replace_file(folder / MANIFEST, json.dumps({**record, DIGEST: _digest(record)}).encode())


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (["size"], 74, "size is 74, encoder.size 64"),
        (["size"], "64", "size is '64', wanted a whole number of 16 to 2048"),
        (["size"], True, "size is True, wanted a whole number of 16 to 2048"),
        (["size"], 100_000, "size is 100000, wanted a whole number of 16 to 2048"),
        (["samples"], -100, "samples is -100, wanted a whole number of 1 or more"),
        (["samples"], 150, "samples is 150, shards sum up to another number"),
        (["left_out"], 1.5, "left_out is 1.5, wanted a whole number of 0 or more"),
        (["left_out"], 7, "149 rows, the manifest says 149 and 7 left out"),
        (["labels_sha256"], "0" * 63, "labels_sha256 is '0000"),
        (["labels_sha256"], "0" * 64, "keys, folds and targets differ from the manifest (labels_sha256)"),
        (["unsafe"], 3, "unsafe is 3, wanted a sentence or null"),
        (["encoder"], [], "encoder is [], wanted a mapping"),
        (["encoder", "quality"], float("nan"), "encoder.quality is nan, wanted a whole number of 50 to 100"),
        (["counts", 0, "fold"], 10**9, "counts[0].fold is 1000000000, wanted a whole number of -1 to 99"),
        (["counts", 0, "split"], "validation", "counts[0].split is 'validation', wanted one of ('train', "),
        (["counts", 0], "row", "counts[0] is 'row', wanted a mapping"),
        (["shards"], {}, "shards is {}, wanted a list of shards"),
        (
            ["shards", 1, "file"],
            "../../etc/x.tar",
            "shards[1].file is '../../etc/x.tar', wanted the name of a tar file",
        ),
        (["shards", 1, "file"], "train-fold0-000000.tar", "shards and files name a file twice"),
        (["shards", 1, "bytes"], 0, "shards[1].bytes is 0, wanted a whole number of 1 or more"),
        (["shards", 1, "bytes"], 10**6, "bytes, the manifest says 1,000,000"),
        (["shards", 1, "sha256"], None, "shards[1].sha256 is None, wanted a SHA-256"),
        (["shards", 1, "colour"], "red", "shards[1].colour is no field of a manifest"),
        (["files", "/dev/zero"], "0" * 64, "files['/dev/zero'].name is '/dev/zero', wanted the name of a file"),
        (["author"], "me", "author is no field of a manifest"),
    ],
)
def test_a_field_out_of_its_range_is_named_with_its_value(
    folder: Path, place: list[str | int], value: object, said: str
) -> None:
    def change(record: Any) -> None:
        for name in place[:-1]:
            record = record[name]
        record[place[-1]] = value

    edited(folder, change)
    assert said in refusal(folder)


@pytest.mark.parametrize("name", ["size", "counts", "shards", "files"])
def test_a_missing_field_is_named(folder: Path, name: str) -> None:
    edited(folder, lambda record: record.pop(name))
    assert f"{name} is missing" in refusal(folder)


@pytest.mark.parametrize(
    "content", [b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"schema_version": 1' + b"1" * 5000]
)
def test_what_is_no_manifest_is_said(folder: Path, content: bytes) -> None:
    replace_file(folder / MANIFEST, content)
    assert "is not a manifest" in refusal(folder)


def test_an_edited_manifest_is_told_and_one_of_another_version_says_how_to_rebuild(folder: Path) -> None:
    record = json.loads((folder / MANIFEST).read_text())
    replace_file(folder / MANIFEST, json.dumps({**record, "unsafe": "made up"}).encode())
    assert f"was changed after it was written ({DIGEST} does not fit)" in refusal(folder)
    replace_file(folder / MANIFEST, json.dumps({**record, "schema_version": 2}).encode())
    assert "build the set again into a new --out with python prep/shard.py" in refusal(folder)


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("shard", "other.tar", "is other.tar, wanted a shard of the manifest"),
        ("shard", None, "column shard has no value in 1 kept rows"),
        ("shard", "test-000000.tar", "column shard has train-fold0-000000.tar 19 times, the manifest 20"),
        ("offset", -1, "is -1, wanted a place within its shard"),
        ("offset", 10**12, "wanted a place within its shard"),
        ("length", 0, "is 0, wanted 1 or more"),
        ("length", 2**31 - 1, "wanted a place within its shard"),
        ("source", 2021, "is 2021, wanted 2019, 2020, or 0 for an outside set"),
        ("split", "val", "is val, wanted train, test or extra"),
        ("fold", -1, "is -1, wanted 0 to 99 in training rows, -1 in others"),
        ("fold", 1, "its counts by source, split, fold and target differ from the manifest"),
        ("target", 2, "is 2, wanted 0, 1, or -1 where unknown"),
        ("key", None, "column key has no value in 1 kept rows"),
        ("key", "ISIC_X", "keys, folds and targets differ from the manifest (labels_sha256)"),
        ("left_out", "not kept", "column left_out does not keep the first 149 rows and no other"),
    ],
)
def test_a_row_out_of_its_range_is_named_with_its_value(folder: Path, column: str, value: object, said: str) -> None:
    change_samples(folder, lambda table: with_value(table, column, ROW, value))
    message = refusal(folder)
    assert said in message
    assert f"{folder / SAMPLES}: " in message


def test_a_missing_column_is_named(folder: Path) -> None:
    change_samples(folder, lambda table: table.drop_columns("group"))
    assert "column group is missing, wanted string" in refusal(folder)


def test_a_column_of_another_type_is_named(folder: Path) -> None:
    def widen(table: pa.Table) -> pa.Table:
        place = table.schema.get_field_index("fold")
        return table.set_column(place, "fold", table["fold"].cast(pa.int64()))

    change_samples(folder, widen)
    assert "column fold is of type int64, wanted int8" in refusal(folder)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", ["clinical", "reference"])
def test_a_meta_vector_with_a_value_that_is_no_number_names_the_sample(folder: Path, kind: Any, value: float) -> None:
    vector = [0.0] * 11
    vector[1] = value
    change_samples(folder, lambda table: with_value(table, f"meta_{kind}", ROW, vector))
    key = pq.read_table(folder / SAMPLES)["key"][ROW].as_py()
    assert f"meta_{kind}: age/90 of {key} is {value}, wanted a finite" in refusal(folder)


def test_a_table_that_is_replaced_in_use_is_not_read(folder: Path) -> None:
    shards, table = ShardSet(folder), SampleTable(folder, read_manifest(folder))
    before = shards.meta("clinical").copy()
    zeros = [0.0] * before.shape[1]
    change_samples(folder, lambda table: with_value(table, "meta_clinical", ROW, zeros))
    np.testing.assert_array_equal(shards.meta("clinical"), before)
    with pytest.raises(UserError, match=r"samples\.parquet was replaced while it was in use"):
        table.meta("clinical")


def pipe(path: Path) -> None:
    os.mkfifo(path)


def plug(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as end:  # the name of a socket may have 100 bytes
        (path.parent.parent / "s").unlink(missing_ok=True)
        end.bind(os.path.relpath(path))


@pytest.mark.parametrize("make", [pipe, plug, Path.mkdir, lambda path: path.symlink_to("/dev/zero")])
@pytest.mark.parametrize("name", [MANIFEST, SAMPLES, "train-fold1-000000.tar"])
def test_what_is_no_file_is_refused_at_once(folder: Path, name: str, make: Callable[[Path], None]) -> None:
    (folder / name).unlink()
    make(folder / name)
    with within(20):
        assert name in refusal(folder)


@pytest.mark.parametrize("change", [-1, -30_000, 10_240])
def test_a_shard_of_another_size_is_told_before_anything_is_read(folder: Path, change: int) -> None:
    path = folder / read_manifest(folder).shards[2].file
    content = path.read_bytes()
    replace_file(path, content[:change] if change < 0 else content + bytes(change))
    assert f"{path} has {len(content) + change:,} bytes, the manifest says {len(content):,}" in refusal(folder)


@pytest.mark.parametrize("left", [0.0, 0.5])
def test_a_shard_that_is_cut_short_or_written_over_in_use_is_a_corrupt_sample(folder: Path, left: float) -> None:
    path = folder / read_manifest(folder).shards[0].file
    replace_file(path, path.read_bytes())
    shards = ShardSet(folder)
    rows = np.flatnonzero(shards._file == 0)
    before = [bytes(jpeg) for jpeg in shards.jpegs(rows)]
    size = path.stat().st_size
    held = shards.jpegs(rows)
    os.truncate(path, int(size * left))
    with pytest.raises(
        CorruptSampleError, match=rf"{path.name}: sample {shards.key[int(rows[-1])]} at byte \d+ is corr"
    ):
        shards.jpegs(rows[-1:])
    path.write_bytes(bytes(size))
    with pytest.raises(CorruptSampleError, match="is corrupt"):
        shards.jpegs(rows)
    assert held == before, "what was read and checked does not change any more"


def read_all(folder: Path, tier: str) -> None:
    shards = ShardSet(folder)
    rows = np.arange(16)
    with Loader(TIERS[tier], shards, rows, CPU, threads=1) as loader:
        list(loader.eval_batches(rows, Partition(samples=16, batch_size=8)))


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("size", [56, 72])
def test_a_set_whose_pictures_have_another_size_is_told_from_every_tier(folder: Path, tier: str, size: int) -> None:
    change_manifest(folder, size=size, encoder={**read_manifest(folder).encoder, "size": size})
    shards = ShardSet(folder)
    shard = folder / shards._files[shards._file[0]]
    with pytest.raises(UserError, match=rf"{shard}: sample \w+ cannot be .*64 x 64 pixels, wanted {size} x {size}"):
        read_all(folder, tier)


def sized(jpeg: bytes, width: int, height: int) -> bytes:
    """A JPEG of another size in as many bytes: a smaller picture, or a header that promises a larger one."""
    if width <= 64 and height <= 64:
        return bytes(simplejpeg.encode_jpeg(picture(1, width, height), quality=20)).ljust(len(jpeg), b"\0")
    place = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:place] + height.to_bytes(2, "big") + width.to_bytes(2, "big") + jpeg[place + 4 :]


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("shape", [(48, 48), (64, 32), (65, 64), (60_000, 60_000)])
def test_one_picture_of_another_size_is_told_from_every_tier(folder: Path, tier: str, shape: tuple[int, int]) -> None:
    shards = ShardSet(folder)
    offset, name, key = int(shards._offset[ROW]), shards._files[shards._file[ROW]], shards.key[ROW]
    other = sized(shards.jpeg(ROW), *shape)
    content = bytearray((folder / name).read_bytes())
    content[offset : offset + len(other)] = other
    assert len(content) == (folder / name).stat().st_size
    replace_file(folder / name, bytes(content))
    change_samples(folder, lambda table: with_value(table, "crc32", ROW, zlib.crc32(other)))
    with pytest.raises(
        UserError, match=rf"{name}: sample {key} cannot be .* {shape[0]} x {shape[1]} pixels, wanted 64"
    ):
        read_all(folder, tier)
