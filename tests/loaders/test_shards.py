"""A shard set, opened."""

from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from sets import change_samples, linked_set

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
