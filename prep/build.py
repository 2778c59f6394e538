"""From a configuration to a finished shard set: read the tables, stage the images, decide, pack, finish, publish."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from configs.errors import UserError
from configs.prep import PrepConfig
from prep.finish import DUPLICATES, OVERVIEW, REJECTED, SUMMARY, write_rejected, write_set
from prep.manifest import MANIFEST, SAMPLES, read_manifest
from prep.metadata import meta_vectors
from prep.pack import PACKER, ShardTask, pack_shard
from prep.place import only_builder, require_room
from prep.plan import (
    audit,
    decided,
    find_duplicates,
    fingerprint_of,
    official_pairs,
    outside_overlap,
    read_rows,
    stage_tasks,
    with_records,
)
from prep.pool import Workers, with_progress
from prep.stage import Encoding, stage_chunk

# What decides the bytes of a shard set; where it lies and how many processes make it do not.
OPTIONS = (
    *("size", "fit", "quality", "subsampling", "duplicates", "folds", "fold_scheme", "seed"),
    *("missing", "on_bad", "extra_role", "samples_per_shard"),
)
_FACTS = ["key", "source", "subsource", "split", "fold", "target", "diagnosis", "group", "patient", "lesion"]
_FACTS += ["sex", "age", "site", "n_images", "file_bytes", "width", "height"]
_STAGED = ("chunk", "staged_offset", "length", "crc32")
_STAGE = "stage"
_OURS = (_STAGE, "*.tar", "*.idx", "*.done.json", "*.tmp", MANIFEST, SAMPLES, REJECTED, DUPLICATES, OVERVIEW, SUMMARY)


def build(config: PrepConfig) -> str:
    """Make the shard set that `config` describes and return its summary. Raises UserError."""
    pa.set_memory_pool(pa.system_memory_pool())  # Arrow's own keeps what it once took: three times as much an image
    rows = read_rows(config)
    out = Path(config.out).resolve()
    partial = out.with_name(out.name + ".partial")
    inputs = _inputs_digest(rows, config)
    if out.exists() and any(out.iterdir()):
        _require_same(out, inputs)
        return f"{config.out} is whole and was made from the same tables, file sizes and options: nothing to do"
    with only_builder(partial, _OURS):
        if not _is_finished(partial, inputs):
            require_room(partial, images=int(rows["left_out"].isna().sum()), size=config.size)
            with Workers(config.workers) as workers:
                make(rows, config, inputs, partial, workers)
        publish(partial, out)
    return f"{config.out}\n{(out / SUMMARY).read_text().rstrip()}"


def make(rows: pd.DataFrame, config: PrepConfig, inputs: str, partial: Path, workers: Workers) -> None:
    """Write every file of the set into `partial`."""
    # Another run's manifest would, after a kill, pass what this run leaves for that run's whole set.
    (partial / MANIFEST).unlink(missing_ok=True)
    stage = partial / _STAGE
    stage.mkdir(exist_ok=True)
    rows = stage_images(rows, config, stage, workers)
    write_rejected(rows, partial)
    _require_good(rows, config, partial)
    pairs = find_duplicates(rows, official_pairs(config), stage)
    named = _with_names(rows, pairs)
    overlap = outside_overlap(rows, pairs)
    rows = decided(rows, pairs, config)
    unsafe = audit(rows, config)
    kept = int(rows["left_out"].isna().sum())
    tasks = shard_tasks(rows, config.samples_per_shard, partial, stage)
    packing = with_progress(workers.in_order(pack_shard, tasks), "packing", kept, lambda shard: len(shard.offsets))
    write_set(
        rows,
        list(packing),
        partial,
        pairs=named,
        encoder=_encoding(config).described(),
        options={
            **{name: getattr(config, name) for name in OPTIONS},
            "folds": int(rows["fold"].max()) + 1,
            "folds_file": config.folds_file is not None,
            "packer": PACKER,
        },
        inputs=inputs,
        unsafe=unsafe,
        overlap=overlap,
    )


def stage_images(rows: pd.DataFrame, config: PrepConfig, stage: Path, workers: Workers) -> pd.DataFrame:
    """Read, decode and encode every image that the rows have; the rows with what was found (see plan.with_records)."""
    images = int(rows["left_out"].isna().sum())
    tasks = stage_tasks(rows, _encoding(config), stage)
    for _ in with_progress(workers.in_order(stage_chunk, tasks), "reading", images, lambda count: count):
        pass
    return with_records(rows, stage)


def shard_tasks(rows: pd.DataFrame, samples_per_shard: int, folder: Path, stage: Path) -> Iterator[ShardTask]:
    """Cut the kept rows into shards of one split and one fold each."""
    kept = rows.loc[rows["left_out"].isna(), [*_FACTS, *_STAGED]]
    for (split, fold), part in kept.groupby(["split", "fold"], sort=False):
        stem = f"train-fold{fold}" if split == "train" else str(split)
        for number, start in enumerate(range(0, len(part), samples_per_shard)):
            members = part.iloc[start : start + samples_per_shard]
            places = zip(*(members[name].tolist() for name in _STAGED), strict=True)
            yield ShardTask(
                folder=str(folder),
                name=f"{stem}-{number:06d}",
                stage=str(stage),
                facts={name: _plain(members[name]) for name in _FACTS},
                meta=meta_vectors("clinical", members),
                places=list(places),
            )


def publish(partial: Path, out: Path) -> None:
    """Remove what only served the building, or was left by a run with other options, and give the set its name."""
    wanted = {entry.file for entry in read_manifest(partial).shards}
    for pattern in ("*.tar", "*.idx", "*.tmp", "*.done.json"):
        for path in partial.glob(pattern):
            if pattern in ("*.tmp", "*.done.json") or path.with_suffix(".tar").name not in wanted:
                path.unlink()
    shutil.rmtree(partial / _STAGE, ignore_errors=True)
    partial.rename(out)


def _encoding(config: PrepConfig) -> Encoding:
    return Encoding(size=config.size, fit=config.fit, quality=config.quality, subsampling=config.subsampling)


def _inputs_digest(rows: pd.DataFrame, config: PrepConfig) -> str:
    options = {name: getattr(config, name) for name in OPTIONS}
    described = [fingerprint_of(rows, config), options, _encoding(config).described(), PACKER]
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def _require_good(rows: pd.DataFrame, config: PrepConfig, partial: Path) -> None:
    bad = rows[rows["left_out"].str.startswith("cannot be used", na=False)]
    if len(bad) and config.on_bad == "fail":
        named = "; ".join(
            f"{path}: {why.partition(': ')[2]}" for path, why in bad[["path", "left_out"]].head(10).to_numpy()
        )
        raise UserError(
            f"{len(bad):,} images cannot be used: {named}; all of them are in {partial / REJECTED}: mend them or pass "
            "--on-bad skip, and run again: the other images' work is kept, no shard set was made"
        )
    if rows["left_out"].notna().all():
        raise UserError(f"not one image can be used: {partial / REJECTED} says why")


def _with_names(rows: pd.DataFrame, pairs: pd.DataFrame) -> pd.DataFrame:
    """The pairs by the names and splits of their images, as duplicates.csv lists them."""
    named = pd.DataFrame(index=pairs.index)
    for end in ("1", "2"):
        of = rows.iloc[pairs[f"row_{end}"]]
        named[f"image_name_{end}"], named[f"split_{end}"] = of["key"].to_numpy(), of["split"].to_numpy()
        named[f"target_{end}"] = of["target"].to_numpy()
    named = pd.concat([named, pairs[["kind", "official", "correlation", "detail"]]], axis=1)
    return named.sort_values(["image_name_1", "image_name_2"], ignore_index=True)


def _plain(column: pd.Series) -> list[Any]:
    """A column as plain JSON values, missing ones as null."""
    values: list[Any] = column.tolist()
    return [None if value != value else value for value in values] if column.hasnans else values


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
