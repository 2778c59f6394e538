"""From a configuration to a shard set: read the tables, stage the images, plan, pack, finish, publish."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from configs.errors import UserError
from configs.prep import PrepConfig
from prep.duplicates import find_duplicates
from prep.files import written_whole
from prep.finish import DUPLICATES, OVERVIEW, REJECTED, SUMMARY, write_set
from prep.first_pass import CANNOT_BE_USED, stage_images
from prep.manifest import MANIFEST, SAMPLES, read_manifest
from prep.metadata import meta_vectors
from prep.pack import ShardTask, pack_shard
from prep.place import only_builder, require_space
from prep.plan import Plan, make_plan
from prep.pool import Workers, with_progress
from prep.rows import inputs_digest, official_pairs, read_rows
from prep.stage import Encoding

_FACTS = ["key", "source", "subsource", "split", "fold", "target", "diagnosis", "group", "patient", "lesion"]
_FACTS += ["sex", "age", "site", "n_images", "file_bytes", "width", "height"]
_STAGED = ("chunk", "staged_offset", "length", "crc32")
_STAGE = "stage"
_OURS = (_STAGE, "*.tar", "*.idx", "*.done.json", "*.tmp", MANIFEST, SAMPLES, REJECTED, DUPLICATES, OVERVIEW, SUMMARY)


def build(config: PrepConfig) -> str:
    """Build the shard set that `config` describes and return its summary. Raises UserError."""
    pa.set_memory_pool(
        pa.system_memory_pool()
    )  # Arrow's own pool keeps freed memory: the process would be three times as large
    rows = read_rows(config)
    out = Path(config.out).resolve()
    partial = out.with_name(out.name + ".partial")
    inputs = inputs_digest(rows, config)
    if out.exists() and any(out.iterdir()):
        _require_same(out, inputs)
        return f"{config.out} is complete and was made from the same tables, file sizes and options: nothing to do"
    with only_builder(partial, _OURS):
        if not _is_finished(partial, inputs):
            require_space(partial, images=int(rows["left_out"].isna().sum()), size=config.size)
            with Workers(config.workers) as workers:
                make(rows, config, inputs, partial, workers)
        publish(partial, out)
    return f"{config.out}\n{(out / SUMMARY).read_text().rstrip()}"


def make(rows: pd.DataFrame, config: PrepConfig, inputs: str, partial: Path, workers: Workers) -> None:
    """Write every file of the set into `partial`."""
    # If this run is killed, the manifest of an earlier one must not vouch for the files of this one.
    (partial / MANIFEST).unlink(missing_ok=True)
    stage = partial / _STAGE
    stage.mkdir(exist_ok=True)
    rows = stage_images(rows, Encoding.of(config), stage, workers)
    reject(rows, config, partial)
    pairs = find_duplicates(rows, official_pairs(config), stage)
    plan = make_plan(rows, pairs, config)
    packing = workers.in_order(pack_shard, shard_tasks(plan, partial, stage))
    shards = list(with_progress(packing, "packing", plan.kept, lambda shard: len(shard.offsets)))
    write_set(plan, shards, partial, inputs)


def reject(rows: pd.DataFrame, config: PrepConfig, partial: Path) -> None:
    """Write rejected.csv (image_name, file, reason): every image that cannot be used, in the order of the tables.

    The file's name has no folder before it: the same download elsewhere makes the same set. Raises UserError where an
    image was rejected and none may be, or where none is left.
    """
    bad = rows[rows["left_out"].str.startswith(CANNOT_BE_USED, na=False)]
    reasons = bad["left_out"].str.removeprefix(CANNOT_BE_USED)
    table = pd.DataFrame({"image_name": bad["key"], "file": bad["path"].map(os.path.basename), "reason": reasons})
    with written_whole(partial / REJECTED) as out:
        out.write(table.to_csv(index=False).encode())
    if len(bad) and config.on_bad == "fail":
        named = "; ".join((bad["path"] + ": " + reasons).head(10))
        raise UserError(
            f"{len(bad):,} images cannot be used: {named}; all of them are in {partial / REJECTED}: repair them or "
            "pass --on-bad skip, and run again: the other images' work is kept, no shard set was made"
        )
    if rows["left_out"].notna().all():
        raise UserError(f"no image can be used: {partial / REJECTED} says why")


def shard_tasks(plan: Plan, folder: Path, stage: Path) -> Iterator[ShardTask]:
    """Cut the kept rows into shards of one split and one fold each."""
    kept = plan.rows.head(plan.kept)[[*_FACTS, *_STAGED]]
    samples_per_shard = plan.config.samples_per_shard
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
    """Remove what was needed only to build, or left by a run with other options, and give the set its name."""
    wanted = {entry.file for entry in read_manifest(partial).shards}
    for pattern in ("*.tar", "*.idx", "*.tmp", "*.done.json"):
        for path in partial.glob(pattern):
            if pattern in ("*.tmp", "*.done.json") or path.with_suffix(".tar").name not in wanted:
                path.unlink()
    shutil.rmtree(partial / _STAGE, ignore_errors=True)
    partial.rename(out)


def _plain(column: pd.Series) -> list[Any]:
    """A column as plain JSON values, missing ones as null."""
    values: list[Any] = column.tolist()
    return [None if value != value else value for value in values] if column.hasnans else values


def _is_finished(partial: Path, inputs: str) -> bool:
    """Whether an earlier run wrote everything and was interrupted before it renamed the folder."""
    return (partial / MANIFEST).is_file() and read_manifest(partial).inputs_sha256 == inputs


def _require_same(out: Path, inputs: str) -> None:
    if not (out / MANIFEST).is_file():
        raise UserError(f"{out} is not empty and holds no shard set; nothing in it was changed: choose another --out")
    if read_manifest(out).inputs_sha256 != inputs:
        raise UserError(
            f"{out} holds a shard set made from other inputs or options; it was not changed: choose another --out"
        )
