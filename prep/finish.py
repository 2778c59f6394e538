"""What makes a folder of shards a shard set: its tables, its picture, its one-page summary and its manifest."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from prep.duplicates import VIEW
from prep.files import file_sha256, flush, written_whole
from prep.folds import fold_table
from prep.manifest import (
    SAMPLES,
    SCHEMA_VERSION,
    Manifest,
    ShardEntry,
    count_rows,
    labels_digest,
    write_manifest,
    write_samples,
)
from prep.metadata import FEATURES, meta_vectors
from prep.overview import draw_overview
from prep.pack import PackedShard

REJECTED = "rejected.csv"
DUPLICATES = "duplicates.csv"
OVERVIEW = "overview.png"
SUMMARY = "summary.txt"


def write_rejected(rows: pd.DataFrame, folder: Path) -> None:
    """Write rejected.csv (image_name, file, reason): every image that cannot be used, in the order of the tables.

    The file's name has no folder before it: the same download elsewhere makes the same set.
    """
    bad = rows[rows["left_out"].str.startswith("cannot be used: ", na=False)]
    reasons = bad["left_out"].str.removeprefix("cannot be used: ")
    table = pd.DataFrame({"image_name": bad["key"], "file": bad["path"].map(os.path.basename), "reason": reasons})
    with written_whole(folder / REJECTED) as out:
        out.write(table.to_csv(index=False).encode())


def write_set(
    rows: pd.DataFrame,
    shards: Sequence[PackedShard],
    folder: Path,
    *,
    pairs: pd.DataFrame,
    encoder: dict[str, Any],
    options: dict[str, Any],
    inputs: str,
    unsafe: str | None,
    overlap: str | None,
) -> None:
    """Write samples.parquet, duplicates.csv, overview.png, summary.txt and, last, manifest.json."""
    rows = _with_places(rows, shards)
    kept = int(rows["left_out"].isna().sum())
    clinical, reference = meta_vectors("clinical", rows), meta_vectors("reference", rows.head(kept))
    write_samples(rows, {"meta_clinical": clinical, "meta_reference": reference}, folder / SAMPLES)
    with written_whole(folder / DUPLICATES) as out:
        out.write(pairs.to_csv(index=False, float_format="%.4f").encode())
    with written_whole(folder / OVERVIEW) as out:
        draw_overview(rows, folder, out)
    with written_whole(folder / SUMMARY) as out:
        out.write((summary(rows, pairs, encoder, unsafe, overlap) + "\n").encode())
    names = [SAMPLES, DUPLICATES, OVERVIEW, SUMMARY, REJECTED, *(f"{shard.name}.idx" for shard in shards)]
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        size=encoder["size"],
        encoder=encoder,
        options={**options, "meta": FEATURES},
        inputs_sha256=inputs,
        samples=kept,
        left_out=len(rows) - kept,
        counts=count_rows(rows),
        labels_sha256=labels_digest(rows),
        unsafe=unsafe,
        files={name: file_sha256(folder / name) for name in names},
        shards=[
            ShardEntry(file=f"{shard.name}.tar", bytes=shard.bytes, samples=len(shard.offsets), sha256=shard.sha256)
            for shard in shards
        ],
    )
    for name in [*names, *(entry.file for entry in manifest.shards)]:
        flush(folder / name)
    write_manifest(manifest, folder)


def _with_places(rows: pd.DataFrame, shards: Sequence[PackedShard]) -> pd.DataFrame:
    """The rows with the columns of samples.parquet that say where a sample lies and what it lacks."""
    kept = int(rows["left_out"].isna().sum())
    outside = len(rows) - kept
    offsets = [offset for shard in shards for offset in shard.offsets]
    assert len(offsets) == kept
    files: list[Any] = [f"{shard.name}.tar" for shard in shards for _ in shard.offsets]
    rows = rows.rename(columns={"sha256": "file_sha256"}).assign(
        index=np.arange(len(rows)), shard=files + [None] * outside, offset=[*offsets, *([-1] * outside)]
    )
    rows.loc[rows.index[kept:], ["length", "crc32"]] = 0
    for column in ("sex", "age", "site"):
        rows[f"{column}_missing"] = rows[column].isna()
    return rows


def summary(
    rows: pd.DataFrame, pairs: pd.DataFrame, encoder: dict[str, Any], unsafe: str | None, overlap: str | None
) -> str:
    """One page for a person: what is in the set, what is not and why, and whether its folds can be trusted."""
    read = ["split", "target", "copied", "group", "sex", "age", "site", "patient", "lesion"]
    kept = rows.loc[rows["left_out"].isna(), read]
    train = kept[kept["split"] == "train"]
    size = encoder["size"]
    lines = [
        f"{len(kept):,} images of {size} x {size} pixels ({encoder['fit']}), JPEG quality {encoder['quality']} "
        f"{encoder['subsampling']}, {kept['copied'].sum():,} of them copied as they were",
        f"train: {len(train):,} images, {(train['target'] == 1).sum():,} melanoma "
        f"({(train['target'] == 1).mean():.2%}), {train['group'].nunique():,} groups",
    ]
    for split in ("test", "extra"):
        part = kept[kept["split"] == split]
        if len(part):
            lines.append(f"{split}: {len(part):,} images")
    lines += ["", "training images (melanoma) by fold and sub-source", fold_table(rows), ""]
    lines.append(f"WARNING: {unsafe}" if unsafe else "audit: no patient, lesion or duplicate spans two folds")
    lines += _about_pairs(pairs, rows)
    if overlap:
        lines.append(overlap)
    lines += ["", "missing among the training rows: " + _nulls(train)]
    reasons = rows["left_out"].dropna().str.replace(r"^(duplicate of|cannot be used).*", r"\1 ...", regex=True)
    lines.append(f"left out: {len(reasons):,} rows")
    lines += [f"  {count:,} {reason}" for reason, count in sorted(reasons.value_counts().items())]
    return "\n".join(lines)


def _about_pairs(pairs: pd.DataFrame, rows: pd.DataFrame) -> list[str]:
    """Counts of pairs, clusters and decisions."""
    views = pairs["kind"] == VIEW
    inside = (pairs["split_1"] == "train") & (pairs["split_2"] == "train") & ~views
    splits = pairs[["split_1", "split_2"]]
    across = (splits == "train").any(axis=1) & (splits == "test").any(axis=1)
    found = int((inside & ~pairs["official"]).sum())
    lines = [
        f"duplicates: {inside.sum():,} pairs of training images, {found:,} of them found by likeness alone; "
        f"{across.sum():,} pairs of a training and a test image; {views.sum():,} pairs are views of one lesion "
        "(all in duplicates.csv)"
    ]
    decisions = rows["duplicate_decision"].value_counts()
    lines += [f"  {count:,} {decision}" for decision, count in sorted(decisions.items())]
    return lines


def _nulls(rows: pd.DataFrame) -> str:
    return ", ".join(f"{name} {rows[name].isna().sum():,}" for name in ("sex", "age", "site", "patient", "lesion"))
