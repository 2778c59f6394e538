"""Plan, pack and finish a shard set: what `prep/shard.py` does once it knows what is wanted."""

import hashlib
import json
import multiprocessing
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import simplejpeg
from rich.console import Console
from rich.progress import track

from configs.errors import UserError
from configs.machine import usable_cores
from configs.schema import PrepConfig
from prep.duplicates import group_names
from prep.folds import assign_folds
from prep.manifest import (
    MANIFEST,
    SCHEMA_VERSION,
    Manifest,
    ShardEntry,
    count_rows,
    labels_digest,
    read_manifest,
    write_manifest,
    write_samples,
)
from prep.metadata import FEATURES, images_per_patient, meta_vectors
from prep.pack import PACKER, PackedShard, SampleTask, ShardTask, pack_shard
from prep.tables import merged_table, read_duplicate_pairs

# What decides the bytes of a shard set; where it lies and how many processes make it do not.
_OPTIONS = ("size", "quality", "folds", "seed", "missing", "samples_per_shard")
_FACTS = (
    "source",
    "split",
    "fold",
    "target",
    "diagnosis",
    "group",
    "sex",
    "age",
    "site",
    "n_images",
    "file_bytes",
)


def build(config: PrepConfig) -> str:
    """Make the shard set that `config` describes and return a summary to print. Raises UserError."""
    rows = plan_rows(config)
    out = Path(config.out).resolve()
    partial = out.with_name(out.name + ".partial")
    tasks = shard_tasks(rows, config, str(partial))
    inputs = hashlib.sha256(json.dumps([rows_digest(rows), *(task.digest() for task in tasks)]).encode()).hexdigest()
    if out.exists() and any(out.iterdir()):
        _require_same(out, inputs)
        return f"{config.out} is whole and was made from the same tables, file sizes and options: nothing to do"
    if not _is_finished(partial, inputs):
        partial.mkdir(parents=True, exist_ok=True)
        finish(rows, pack_all(tasks, config.workers, partial), config, inputs, partial)
    publish(partial, out)
    return summary(rows, config.out, len(tasks))


def plan_rows(config: PrepConfig) -> pd.DataFrame:
    """Every row of the tables with its fold, group and image file; rows without an image are marked left_out."""
    isic2020 = Path(config.isic2020) if config.isic2020 else None
    isic2019 = Path(config.isic2019) if config.isic2019 else None
    rows = merged_table(isic2020, isic2019)
    pairs = read_duplicate_pairs(isic2020) if isic2020 else pd.DataFrame(columns=["image_name_1", "image_name_2"])
    rows["group"] = group_names(rows, pairs)
    rows["fold"] = assign_folds(rows, rows["group"], folds=config.folds, seed=config.seed)
    rows["n_images"] = images_per_patient(rows)
    rows["path"] = rows["folder"] + os.sep + rows["key"] + ".jpg"
    rows["file_bytes"] = file_sizes(rows)
    absent = rows["file_bytes"] < 0
    if absent.all():
        raise UserError(f"none of the {len(rows):,} images of the tables was found, {rows['path'].iloc[0]} for one")
    if absent.any() and config.missing == "fail":
        names = ", ".join(rows["key"][absent].head(10))
        raise UserError(
            f"{absent.sum():,} of {len(rows):,} images of the tables are missing in the folders, first {names}; "
            "complete the download or pass --missing skip; nothing was written"
        )
    rows["left_out"] = pd.Series("image file missing", index=rows.index, dtype="str").where(absent)
    return shuffled(rows, config.seed)


def file_sizes(rows: pd.DataFrame) -> list[int]:
    """Bytes of each row's image file, -1 where there is none; one listing a folder, not one look-up a row."""
    sizes: dict[str, int] = {}
    for folder in rows["folder"].unique():
        if Path(folder).is_dir():
            with os.scandir(folder) as entries:
                found = [entry for entry in entries if entry.name.endswith(".jpg") and entry.is_file()]
                sizes.update({entry.path: entry.stat().st_size for entry in found})
    return [sizes.get(path, -1) for path in rows["path"]]


def shuffled(rows: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Kept rows by split and fold, within each in an order that hashes of (seed, key) decide; the others last."""
    order = [hashlib.blake2b(f"{seed}/{key}".encode(), digest_size=8).digest() for key in rows["key"]]
    rows = rows.assign(order=order, out=rows["left_out"].notna(), test=rows["split"] == "test")
    rows = rows.sort_values(["out", "test", "fold", "order"], kind="stable", ignore_index=True)
    return rows.drop(columns=["order", "out", "test"])


def rows_digest(rows: pd.DataFrame) -> str:
    """SHA-256 of the rows that are left out (the kept ones are in the shards' digests)."""
    out = rows[rows["left_out"].notna()]
    return hashlib.sha256(out[["key", "left_out", *_FACTS]].to_csv(index=False).encode()).hexdigest()


def shard_tasks(rows: pd.DataFrame, config: PrepConfig, folder: str) -> list[ShardTask]:
    """Cut the kept rows into shards of one split and one fold each."""
    kept = rows[rows["left_out"].isna()]
    vectors = meta_vectors("clinical", kept)
    facts = [_facts(row) for row in kept[["key", *_FACTS]].to_dict("records")]
    samples = [
        SampleTask(key=fact["key"], path=path, facts=fact, meta=tuple(vector.tolist()))
        for fact, path, vector in zip(facts, kept["path"], vectors, strict=True)
    ]
    tasks = []
    for (split, fold), part in kept.groupby(["split", "fold"], sort=False):
        stem = f"train-fold{fold}" if split == "train" else str(split)
        for number, start in enumerate(range(0, len(part), config.samples_per_shard)):
            members = part.index[start : start + config.samples_per_shard]
            tasks.append(
                ShardTask(
                    folder=folder,
                    name=f"{stem}-{number:06d}",
                    size=config.size,
                    quality=config.quality,
                    samples=tuple(samples[member] for member in members),
                )
            )
    return tasks


def pack_all(tasks: list[ShardTask], workers: int, partial: Path) -> list[PackedShard]:
    """Make every shard. Raises UserError with all images that could not be decoded, the first ten by name."""
    live = Console().is_terminal
    shards = list(track(_packed(tasks, workers), "packing", total=len(tasks), disable=not live))
    rejected = [item for shard in shards for item in shard.rejected]
    if rejected:
        named = "; ".join(f"{path}: {reason}" for path, reason in rejected[:10])
        raise UserError(
            f"{len(rejected)} images cannot be used: {named}; mend or remove them and run again: the finished shards "
            f"are kept in {partial}, no shard set was made"
        )
    return shards


def _packed(tasks: list[ShardTask], workers: int) -> Iterator[PackedShard]:
    workers = min(workers or usable_cores(), len(tasks))
    if workers == 1:
        yield from map(pack_shard, tasks)
        return
    spawn = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(workers, mp_context=spawn, initializer=_begin_worker) as pool:
            yield from pool.map(pack_shard, tasks)
    except BrokenProcessPool as error:
        raise UserError(
            "a worker was killed, most likely for want of memory: run again with fewer --workers"
        ) from error


def _begin_worker() -> None:
    cv2.setNumThreads(1)  # the processes share the cores already
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's: it lets the shards under way end


def finish(rows: pd.DataFrame, shards: list[PackedShard], config: PrepConfig, inputs: str, folder: Path) -> None:
    """Write samples.parquet and manifest.json."""
    packed = [(f"{shard.name}.tar", sample) for shard in shards for sample in shard.samples]
    outside = len(rows) - len(packed)
    assert [sample.key for _, sample in packed] == rows["key"].head(len(packed)).tolist()
    rows["index"] = np.arange(len(rows))
    rows["shard"] = [file for file, _ in packed] + [None] * outside
    for column, absent in (("offset", -1), ("length", 0), ("crc32", 0), ("width", 0), ("height", 0)):
        rows[column] = [getattr(sample, column) for _, sample in packed] + [absent] * outside
    for column in ("sex", "age", "site"):
        rows[f"{column}_missing"] = rows[column].isna()
    rows["meta_clinical"] = list(meta_vectors("clinical", rows))
    rows["meta_reference"] = [*meta_vectors("reference", rows.head(len(packed))), *([None] * outside)]
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        size=config.size,
        encoder={"simplejpeg": simplejpeg.__version__, "quality": config.quality, "subsampling": "4:2:0"},
        options={**{name: getattr(config, name) for name in _OPTIONS}, "packer": PACKER, "meta": FEATURES},
        inputs_sha256=inputs,
        samples=len(packed),
        left_out=outside,
        counts=count_rows(rows),
        samples_sha256=write_samples(rows, folder / "samples.parquet"),
        labels_sha256=labels_digest(rows),
        shards=[
            ShardEntry(file=f"{shard.name}.tar", bytes=shard.bytes, samples=len(shard.samples), sha256=shard.sha256)
            for shard in shards
        ],
    )
    write_manifest(manifest, folder)


def publish(partial: Path, out: Path) -> None:
    """Remove what only served the building, or was left by a run with other options, and give the set its name."""
    wanted = {entry.file for entry in read_manifest(partial).shards}
    for pattern in ("*.tar", "*.idx", "*.tmp", "*.done.json"):
        for path in partial.glob(pattern):
            if path.with_suffix(".tar").name not in wanted:
                path.unlink()
    partial.rename(out)


def summary(rows: pd.DataFrame, out: str, shards: int) -> str:
    """What a person wants to read at the end."""
    kept = rows[rows["left_out"].isna()]
    train, test = kept[kept["split"] == "train"], kept[kept["split"] == "test"]
    lines = [
        f"{out}: {shards} shards, {len(rows) - len(kept):,} rows left out",
        f"  train {len(train):,} images, {(train['target'] == 1).sum():,} melanoma; test {len(test):,} images",
    ]
    for source, part in train.groupby("source"):
        lines.append(f"  {source}: {len(part):,} images, {(part['target'] == 1).sum():,} melanoma")
    folds = train.groupby("fold")["target"].agg(["size", "sum"])
    lines += [f"  fold {fold}: {row['size']:,} images, {row['sum']:,} melanoma" for fold, row in folds.iterrows()]
    return "\n".join(lines)


def _facts(row: dict[Any, Any]) -> dict[str, Any]:
    """A row as plain JSON values, missing ones as null."""
    return {str(name): None if pd.isna(value) else value for name, value in row.items()}


def _is_finished(partial: Path, inputs: str) -> bool:
    """Whether an earlier run was interrupted between the last byte and the new name."""
    return (partial / MANIFEST).is_file() and read_manifest(partial).inputs_sha256 == inputs


def _require_same(out: Path, inputs: str) -> None:
    if not (out / MANIFEST).is_file():
        raise UserError(f"{out} is not empty and holds no shard set; it was left as it is: choose another --out")
    if read_manifest(out).inputs_sha256 != inputs:
        raise UserError(
            f"{out} holds a shard set of other inputs or options, which was left as it is: choose another --out"
        )
