"""A shard set, opened."""

from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import Table

from loaders.shards import ShardSet
from prep.diagnosis import CLASSES
from prep.manifest import SAMPLES


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


def all_of(shards: ShardSet) -> np.ndarray:
    return np.arange(len(shards))


def in_small_groups(table: Table, path: Path) -> None:
    """Seven rows per group, so that groups differ in their shards, splits and diagnoses and in the order of these."""
    pq.write_table(table, path, row_group_size=7)
    assert pq.ParquetFile(path).metadata.num_row_groups > 20


def test_a_table_of_many_row_groups_is_opened_as_one_of_a_single_group(shard_folder: Path, tmp_path: Path) -> None:
    for path in shard_folder.iterdir():
        (tmp_path / path.name).symlink_to(path)
    table = pq.read_table(shard_folder / SAMPLES)
    (tmp_path / SAMPLES).unlink()
    in_small_groups(table, tmp_path / SAMPLES)
    whole, cut = ShardSet(shard_folder), ShardSet(tmp_path)
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
