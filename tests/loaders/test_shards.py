"""A shard set, opened."""

import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from commands import ROOT, tiny
from sets import change_samples, linked_set, with_value

from benchmarks.scaling import repeated
from configs.errors import UserError
from loaders.shards import ShardSet, check_and_write
from prep.diagnosis import CLASSES
from prep.manifest import SAMPLES, read_manifest


def columns(shards: ShardSet) -> dict[str, list[object]]:
    whole = {name: getattr(shards, name).tolist() for name in ("source", "fold", "target", "diagnosis")}
    rows = {split: shards.split_rows(split).tolist() for split in ("train", "test")}
    return {
        **whole,
        **rows,
        "meta": [shards.meta(kind).tolist() for kind in ("clinical", "reference")],
        "key": shards.key.to_pylist(),
        "bytes": [bytes(one) for one in shards.jpegs(all_of(shards))],
    }


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def all_of(shards: ShardSet) -> np.ndarray:
    return np.arange(len(shards))


def test_a_table_of_many_row_groups_is_opened_as_one_of_a_single_group(shard_folder: Path, tmp_path: Path) -> None:
    """Seven rows per group, so that groups differ in their shards, splits and diagnoses and in the order of these."""
    table = pq.read_table(shard_folder / SAMPLES)
    folder = linked_set(shard_folder, tmp_path / "set")
    change_samples(folder, lambda whole: whole)
    assert pq.ParquetFile(folder / SAMPLES).metadata.num_row_groups > 20
    whole, cut = ShardSet(shard_folder), ShardSet(folder)
    assert columns(cut) == columns(whole)
    kept = table.slice(0, len(whole))
    assert whole.key.to_pylist() == kept["key"].to_pylist()
    assert whole.split_rows("test").tolist() == np.flatnonzero(pc.equal(kept["split"], "test")).tolist()
    assert {CLASSES[number] for number in whole.diagnosis} >= {"MEL", "NV", "BCC"}
    assert len({*kept["shard"].to_pylist()}) > 4


def test_no_held_out_fold_leaves_every_training_row_to_train_on(shard_folder: Path) -> None:
    shards = ShardSet(shard_folder)
    np.testing.assert_array_equal(shards.train_rows(None), shards.split_rows("train"))
    assert shards.fold_rows(None).tolist() == []


def test_what_one_process_wrote_is_mapped_by_others_which_need_no_table(shard_folder: Path, tmp_path: Path) -> None:
    folder, whole = linked_set(shard_folder, tmp_path / "set"), ShardSet(shard_folder)
    written = check_and_write(folder)
    (folder / SAMPLES).unlink()
    first, second = ShardSet(folder, written), ShardSet(folder, written)
    written.unlink()
    assert columns(first) == columns(second) == columns(whole)


def test_opening_leaves_no_file_behind(shard_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    ShardSet(shard_folder).close()
    folder = linked_set(shard_folder, tmp_path / "set")
    change_samples(folder, lambda table: with_value(table, "fold", 5, 1))
    with pytest.raises(UserError, match="counts by source"):
        ShardSet(folder)
    assert list(tmp_path.iterdir()) == [folder]


def test_columns_of_another_set_are_refused(shard_folder: Path, tmp_path: Path) -> None:
    folder = linked_set(shard_folder, tmp_path / "set")
    change_samples(folder, lambda table: table)
    written = check_and_write(folder)
    with pytest.raises(UserError, match="holds the samples of another shard set"):
        ShardSet(shard_folder, written)
    written.unlink()


def test_without_space_for_the_columns_the_remedy_is_said(
    shard_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(UserError, match=r"could not be written \(No such file.*set TMPDIR to a folder on this machine"):
        ShardSet(shard_folder)


def test_threads_read_more_shards_than_stay_open(shard_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = ShardSet(shard_folder)
    monkeypatch.setattr("loaders.shards._MOST_OPEN", 2)
    rows = np.random.default_rng(0).permutation(np.tile(all_of(shards), 4))
    before, whole = open_files(), ShardSet(shard_folder).jpegs(rows)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(shards.jpeg, rows.tolist()))
    assert found == whole
    assert len(shards._files) > 4
    assert open_files() <= before + 2


def test_five_thousand_shards_are_trained_on_with_a_thousand_open_files(shard_folder: Path, tmp_path: Path) -> None:
    folder = repeated(shard_folder, tmp_path / "set", 5_600, shard_files=5_000)
    files = {entry.file for entry in read_manifest(folder).shards}
    assert len(files) > 4_000
    words = tiny(folder, tmp_path / "runs", "--fold", "none", "--epochs", "1", "--batch-size", "64")
    limited = ["bash", "-c", 'ulimit -n 1024 && exec "$@"', "bash", sys.executable, "train.py", *words]
    done = subprocess.run(limited, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
