"""From a configuration to a shard set: read the tables, stage the images, plan, pack, finish, publish."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from configs.errors import UserError
from configs.files import written_whole
from configs.prep import PrepConfig
from prep.duplicates import find_duplicates
from prep.files import only_builder
from prep.finish import DUPLICATES, OVERVIEW, REJECTED, SUMMARY, write_set
from prep.killers import stage_all
from prep.manifest import MANIFEST, SAMPLES, read_manifest
from prep.metadata import meta_vectors
from prep.pack import ShardTask, close_chunks, pack_shard
from prep.plan import Plan, make_plan
from prep.pool import Workers, with_progress
from prep.privacy import without_ids
from prep.rows import inputs_digest, read_rows
from prep.stage import RECORD, Encoding, StageTask, chunk_size, chunk_stem, read_reasons, read_records
from prep.tables import read_duplicate_pairs

_FACTS = ["key", "source", "subsource", "split", "fold", "target", "diagnosis", "group", "patient", "lesion"]
_FACTS += ["sex", "age", "site", "n_images", "file_bytes", "width", "height"]
_STAGED = ("chunk", "staged_offset", "length", "crc32")
_RECORDED = ("offset", "length", "crc32", "width", "height", "copied", "hash", "flat")
_STAGE = "stage"
_CANNOT_BE_USED = "cannot be used: "  # what `left_out` says before the reason for which an image was rejected
_OURS = (_STAGE, "*.tar", "*.idx", "*.done.json", "*.tmp", MANIFEST, SAMPLES, REJECTED, DUPLICATES, OVERVIEW, SUMMARY)


def build(config: PrepConfig) -> str:
    """Build the shard set that `config` describes and return its summary. Raises UserError."""
    # Arrow's own pool keeps freed memory: the process would be three times as large.
    pa.set_memory_pool(pa.system_memory_pool())
    rows = read_rows(config)
    out = Path(config.out).resolve()
    partial = out.with_name(out.name + ".partial")
    inputs = inputs_digest(rows, config)
    if out.exists() and any(out.iterdir()):
        _require_same(out, inputs)
        return f"{config.out} is complete and was made from the same tables, file sizes and options: nothing to do"
    with only_builder(partial, _OURS):
        if _inputs_of_partial(partial) != inputs:  # else a run was interrupted before it renamed the folder
            _require_space(partial, images=int(rows["left_out"].isna().sum()), size=config.size)
            with _workers(config, partial) as workers:
                make(rows, config, inputs, partial, workers)
        publish(partial, out)
    return f"{config.out}\n{(out / SUMMARY).read_text().rstrip()}"


def make(rows: pd.DataFrame, config: PrepConfig, inputs: str, partial: Path, workers: Workers) -> None:
    """Write every file of the set into `partial`."""
    # If this run is killed, the manifest of an earlier one must not vouch for the files of this one.
    (partial / MANIFEST).unlink(missing_ok=True)
    stage = partial / _STAGE
    stage.mkdir(exist_ok=True)
    rows = stage_images(rows, config, stage, workers)
    reject(rows, config, partial)
    pairs = find_duplicates(rows, read_duplicate_pairs(config.isic2020), stage)
    plan = make_plan(rows, pairs, config)
    if not config.keep_ids:
        plan = replace(plan, rows=without_ids(plan.rows))
    packing = workers.in_order(pack_shard, shard_tasks(plan, partial, stage))
    try:
        shards = list(with_progress(packing, "packing", plan.kept, lambda shard: len(shard.offsets)))
    finally:
        close_chunks()
    write_set(plan, shards, partial, inputs)


def _workers(config: PrepConfig, partial: Path) -> Workers:
    if config.launch.by == "none":
        return Workers(config.workers)
    from prep.ray_workers import RayWorkers  # here: it needs what is named in `by`

    return RayWorkers(config.launch, partial)


def stage_images(rows: pd.DataFrame, config: PrepConfig, folder: Path, workers: Workers) -> pd.DataFrame:
    """Read, decode and encode every image that the rows have into chunks (prep/stage.py) below `folder`.

    Returns the rows with what was found (see stage.RECORD), and left_out where an image cannot be used.
    """
    files = np.flatnonzero(rows["left_out"].isna())
    stage_all(list(stage_tasks(rows.iloc[files], config, folder)), folder, workers)
    columns = {name: np.zeros(len(rows), dtype=RECORD[name]) for name in _RECORDED}
    columns["chunk"] = np.full(len(rows), -1)
    hashes, bad, reasons = [], [], []
    size = chunk_size(len(files))
    for number, start in enumerate(range(0, len(files), size)):
        records, part = read_records(stem := chunk_stem(folder, number)), files[start : start + size]
        assert len(records) == len(part)
        for name in _RECORDED:
            columns[name][part] = records[name]
        columns["chunk"][part] = number
        hashes.append(pa.array(records["sha256"].astype(str), mask=records["bad"]))
        if records["bad"].any():
            bad += part[records["bad"]].tolist()
            reasons += [_CANNOT_BE_USED + reason for reason in read_reasons(stem)]
    rows = rows.assign(staged_offset=columns.pop("offset"), **columns)
    rows["sha256"] = pd.Series(pa.chunked_array(hashes).combine_chunks(), index=files, dtype="str")
    rows.loc[bad, "left_out"] = reasons
    return rows


def stage_tasks(files: pd.DataFrame, config: PrepConfig, folder: Path) -> Iterator[StageTask]:
    """Chunks of the rows that have an image, in the order of the tables."""
    encoding, size = Encoding.of(config), chunk_size(len(files))
    for number, start in enumerate(range(0, len(files), size)):
        part = files.iloc[start : start + size]
        paths = part["path"].map(os.path.abspath)  # nodes work in other folders
        described = tuple(zip(paths, part["file_bytes"], part["changed_ns"], strict=True))
        yield StageTask(
            stem=chunk_stem(folder, number), encoding=encoding, files=described, max_pixels=config.max_pixels
        )


def reject(rows: pd.DataFrame, config: PrepConfig, partial: Path) -> None:
    """Write rejected.csv (image_name, file without its folder, reason): every image that cannot be used.

    Raises UserError where an image was rejected and none may be, or where none is left.
    """
    bad = rows[rows["left_out"].str.startswith(_CANNOT_BE_USED, na=False)]
    reasons = bad["left_out"].str.removeprefix(_CANNOT_BE_USED)
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
            plain = members.astype(object).where(members.notna(), None)  # as JSON has them
            yield ShardTask(
                folder=str(folder),
                name=f"{stem}-{number:06d}",
                stage=str(stage),
                private=plan.config.keep_ids,
                facts={name: plain[name].tolist() for name in _FACTS},
                meta=meta_vectors("clinical", members),
                places=list(members[[*_STAGED]].itertuples(index=False, name=None)),
            )


def publish(partial: Path, out: Path) -> None:
    """Remove what was needed only to build, or left by a run with other options, and give the set its name."""
    manifest = read_manifest(partial)
    wanted = {*manifest.files, *(entry.file for entry in manifest.shards)}
    for pattern in ("*.tar", "*.idx", "*.tmp", "*.done.json"):
        for path in partial.glob(pattern):
            if path.name not in wanted:
                path.unlink()
    shutil.rmtree(partial / _STAGE, ignore_errors=True)
    partial.rename(out)


def _inputs_of(folder: Path) -> str | None:
    """What the set in `folder` was made from, None where none is there."""
    return read_manifest(folder).inputs_sha256 if (folder / MANIFEST).is_file() else None


def _inputs_of_partial(folder: Path) -> str | None:
    """The same for a folder that is built again where its manifest cannot be used."""
    try:
        return _inputs_of(folder)
    except UserError:
        return None


def _require_same(out: Path, inputs: str) -> None:
    found = _inputs_of(out)
    if found is None:
        raise UserError(f"{out} is not empty and holds no shard set; nothing in it was changed: choose another --out")
    if found != inputs:
        what = "a shard set made from other inputs or options"
        raise UserError(f"{out} holds {what}; it was not changed: choose another --out")


def _require_space(folder: Path, *, images: int, size: int) -> None:
    """Raise UserError where the disk of `folder` lacks the space for a set of `images` at `size` pixels.

    Each image is stored twice, staged and in its shard: half a byte per pixel at quality 96, as measured on ISIC
    images, and 8 KB for tar headers, vectors and thumbnails.
    """
    present = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    needed = images * (2 * size * size // 2 + 8192) - present
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"{folder}: about {needed / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free: "
            "free some space, or choose an --out on another disk or a smaller --size"
        )
