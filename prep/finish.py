"""The files that make a folder of shards a shard set: tables, overview picture, one-page summary, manifest."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd
import simplejpeg
from PIL import Image, ImageDraw, ImageFont

from configs.files import flush, written_whole
from prep.duplicates import VIEW
from prep.files import file_sha256, read_bytes
from prep.folds import audit_lines, fold_table
from prep.manifest import (
    SAMPLES,
    Manifest,
    ShardEntry,
    count_rows,
    kept_table,
    labels_digest,
    write_manifest,
    write_samples,
)
from prep.metadata import FEATURES, meta_vectors
from prep.pack import PACKER, PackedShard
from prep.plan import Plan
from prep.rows import OPTIONS
from prep.stage import Encoding

REJECTED = "rejected.csv"
DUPLICATES = "duplicates.csv"
OVERVIEW = "overview.png"
SUMMARY = "summary.txt"
_EACH = 8  # images of a line
_EDGE, _GAP, _MARGIN = 120, 14, 130  # pixels of an image, above each, and left of all
_TARGETS = {1: "melanoma", 0: "no melanoma", -1: "label unknown"}
_SPLITS = ("train", "test", "extra")
_READ = ["key", "split", "source", "subsource", "target", "shard", "offset", "length"]


def write_set(plan: Plan, shards: Sequence[PackedShard], folder: Path, inputs: str) -> None:
    """Write samples.parquet, duplicates.csv, overview.png, summary.txt and, last, manifest.json with the digest of the
    set's inputs (prep/rows.py)."""
    rows = _with_places(plan, shards)
    clinical, reference = meta_vectors("clinical", rows), meta_vectors("reference", rows.head(plan.kept))
    vectors = {"meta_clinical": clinical, "meta_reference": reference}
    write_samples(rows, vectors, folder / SAMPLES, private=plan.config.keep_ids)
    with written_whole(folder / DUPLICATES) as out:
        out.write(plan.pairs.to_csv(index=False, float_format="%.4f").encode())
    with written_whole(folder / OVERVIEW) as out:
        draw_overview(rows, folder, out)
    with written_whole(folder / SUMMARY) as out:
        out.write((summary(plan) + "\n").encode())
    names = [SAMPLES, DUPLICATES, OVERVIEW, SUMMARY, REJECTED, *(f"{shard.name}.idx" for shard in shards)]
    manifest = _manifest(plan, shards, inputs, {name: file_sha256(folder / name) for name in names})
    for name in [*names, *(entry.file for entry in manifest.shards)]:
        flush(folder / name)
    write_manifest(manifest, folder)


def _manifest(plan: Plan, shards: Sequence[PackedShard], inputs: str, files: dict[str, str]) -> Manifest:
    config, rows, kept = plan.config, plan.rows, kept_table(plan.rows)
    made = {"folds": int(rows["fold"].max()) + 1, "folds_file": config.folds_file is not None}
    return Manifest(
        size=config.size,
        encoder=Encoding.of(config).described(),
        options={**{name: getattr(config, name) for name in OPTIONS}, **made, "packer": PACKER, "meta": FEATURES},
        inputs_sha256=inputs,
        samples=plan.kept,
        left_out=len(rows) - plan.kept,
        counts=count_rows(kept),
        labels_sha256=labels_digest(kept),
        unsafe=plan.unsafe,
        files=files,
        shards=[
            ShardEntry(file=f"{shard.name}.tar", bytes=shard.bytes, samples=len(shard.offsets), sha256=shard.sha256)
            for shard in shards
        ],
    )


def _with_places(plan: Plan, shards: Sequence[PackedShard]) -> pd.DataFrame:
    """The rows with the columns of samples.parquet for the location of a sample and for its missing metadata."""
    kept, outside = plan.kept, len(plan.rows) - plan.kept
    offsets = [offset for shard in shards for offset in shard.offsets]
    assert len(offsets) == kept
    files: list[Any] = [f"{shard.name}.tar" for shard in shards for _ in shard.offsets]
    rows = plan.rows.rename(columns={"sha256": "file_sha256"}).assign(
        index=np.arange(len(plan.rows)), shard=files + [None] * outside, offset=[*offsets, *([-1] * outside)]
    )
    rows.loc[rows.index[kept:], ["length", "crc32"]] = 0
    for column in ("sex", "age", "site"):
        rows[f"{column}_missing"] = rows[column].isna()
    return rows


def summary(plan: Plan) -> str:
    """One page to read: what is in the set, what is not and why, and whether its folds can be trusted."""
    config, rows = plan.config, plan.rows
    read = ["split", "target", "copied", "group", "sex", "age", "site", "patient", "lesion"]
    kept = rows.loc[rows["left_out"].isna(), read]
    train = kept[kept["split"] == "train"]
    lines = [
        f"{len(kept):,} images of {config.size} x {config.size} pixels ({config.fit}), JPEG quality {config.quality} "
        f"{config.subsampling}, {kept['copied'].sum():,} of them copied as they were",
        f"train: {len(train):,} images, {(train['target'] == 1).sum():,} melanoma "
        f"({(train['target'] == 1).mean():.2%}), {train['group'].nunique():,} groups",
    ]
    sizes = kept["split"].value_counts()
    lines += [f"{split}: {sizes[split]:,} images" for split in ("test", "extra") if split in sizes]
    lines += ["", "training images (melanoma) by fold and sub-source", fold_table(rows), ""]
    lines += audit_lines(rows, plan.unsafe)
    lines += _about_pairs(plan.pairs, rows)
    if plan.overlap:
        lines.append(plan.overlap)
    nulls = train[["sex", "age", "site", "patient", "lesion"]].isna().sum()
    lines += ["", "missing among the training rows: " + ", ".join(f"{name} {count:,}" for name, count in nulls.items())]
    reasons = rows["left_out"].dropna().str.replace(r"^(duplicate of|cannot be used).*", r"\1 ...", regex=True)
    lines.append(f"left out: {len(reasons):,} rows")
    lines += [f"  {count:,} {reason}" for reason, count in sorted(reasons.value_counts().items())]
    return "\n".join(lines)


def _about_pairs(pairs: pd.DataFrame, rows: pd.DataFrame) -> list[str]:
    """Counts of pairs, clusters and decisions."""
    views = pairs["kind"] == VIEW
    splits = pairs[["split_1", "split_2"]]
    inside = (splits == "train").all(axis=1) & ~views
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


def draw_overview(rows: pd.DataFrame, folder: Path, out: BinaryIO) -> None:
    """Draw the first images of each split, sub-source and target, one line each, as a PNG, from the shards."""
    kept = rows.loc[rows["left_out"].isna(), _READ]
    kept = kept.assign(split=pd.Categorical(kept["split"], _SPLITS), rank=-kept["target"])
    groups = kept.groupby(["split", "subsource", "rank"], observed=True)
    step = _EDGE + _GAP
    sheet = Image.new("RGB", (_MARGIN + (_EDGE + 4) * _EACH, step * groups.ngroups), "white")
    draw = ImageDraw.Draw(sheet)
    small, normal = ImageFont.load_default(8), ImageFont.load_default(11)
    for line, (_, part) in enumerate(groups):
        top = line * step + _GAP
        first = part.iloc[0]
        source = f"2019 {first['subsource']}" if first["source"] == 2019 else first["subsource"]
        label = f"{first['split']} {source}\n{_TARGETS[first['target']]}\n{len(part):,} images"
        draw.multiline_text((6, top + _EDGE / 3), label, fill="black", font=normal)
        for place, row in enumerate(part.head(_EACH).to_dict("records")):
            left = _MARGIN + place * (_EDGE + 4)
            pixels = simplejpeg.decode_jpeg(read_bytes(folder / row["shard"], row["offset"], row["length"]))
            sheet.paste(Image.fromarray(pixels).resize((_EDGE, _EDGE), Image.Resampling.LANCZOS), (left, top))
            draw.text((left, top - 11), row["key"], fill="black", font=small)
    sheet.save(out, "PNG")
