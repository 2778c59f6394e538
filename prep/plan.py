"""What goes into a shard set: the rows of the tables with their files; once the pictures are known, their fate."""

import hashlib
import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from configs.errors import UserError
from configs.prep import PrepConfig
from prep import duplicates, folds
from prep.fingerprint import find_pairs
from prep.images import Pixels
from prep.layout import find_pictures
from prep.metadata import images_per_patient
from prep.stage import CHUNK, Encoding, StageTask, read_records, read_thumbs
from prep.tables import OUTSIDE, merged_table, read_duplicate_pairs, read_extra


def read_rows(config: PrepConfig, *, images: bool = True) -> pd.DataFrame:
    """Every row of the tables with its image file (path, missing where there is none, file_bytes, changed_ns).

    Raises UserError where the tables do not fit, or where images are missing and may not be; with `images` False, not
    one has to be there.
    """
    folders = [Path(folder) if folder else None for folder in (config.isic2020, config.isic2019, config.master)]
    rows = merged_table(*folders)
    rows["n_images"] = images_per_patient(rows)
    if config.extra:
        rows = with_extra(rows, read_extra(Path(config.extra), "extra" if config.extra_role == "evaluate" else "train"))
    rows["subsource"] = folds.subsource(rows)
    rows = rows.join(find_pictures(rows))
    wanted = rows["left_out"].isna()
    absent = wanted & rows["path"].isna()
    if not wanted.any():
        raise UserError("the tables name no images: see to the CSV files")
    if images and absent.sum() == wanted.sum():
        where = rows["file"].fillna(rows["folder"] + os.sep + rows["key"])[absent].iloc[0]
        raise UserError(f"none of the {wanted.sum():,} images of the tables was found, {where} for one")
    if images and absent.any() and config.missing == "fail":
        names = ", ".join(rows["key"][absent].head(10))
        raise UserError(
            f"{absent.sum():,} of {wanted.sum():,} images of the tables are missing in the folders, first {names}; "
            "complete the download or pass --missing skip; nothing was written"
        )
    rows.loc[absent, "left_out"] = "image file missing"
    return rows


def with_extra(rows: pd.DataFrame, extra: pd.DataFrame) -> pd.DataFrame:
    """The rows with an outside set's behind them; those of the same name as one of ours are left out."""
    taken = extra["key"].isin(rows["key"])
    extra["left_out"] = pd.Series("the name of an image of the downloads", extra.index, dtype="str").where(taken)
    extra["n_images"] = images_per_patient(extra)
    return pd.concat([rows, extra], ignore_index=True)


def official_pairs(config: PrepConfig) -> pd.DataFrame:
    """The official duplicate pairs of 2020, where they are at hand."""
    if config.isic2020:
        return read_duplicate_pairs(Path(config.isic2020))
    return pd.DataFrame(columns=["image_name_1", "image_name_2"], dtype="str")


def fingerprint_of(rows: pd.DataFrame, config: PrepConfig) -> str:
    """SHA-256 of the tables, the files' names and sizes, the official pairs and an outside assignment of folds."""
    facts = rows.drop(columns=["folder", "file", "path", "changed_ns"])
    digest = hashlib.sha256(pd.util.hash_pandas_object(facts, index=False).to_numpy().tobytes())
    digest.update(official_pairs(config).to_csv(index=False).encode())
    if config.folds_file:
        digest.update(folds.read_folds(Path(config.folds_file), rows).tobytes())
    return digest.hexdigest()


def stage_tasks(rows: pd.DataFrame, encoding: Encoding, folder: Path) -> Iterator[StageTask]:
    """Cut the rows that have an image into chunks, in the order of the tables."""
    files = rows[rows["left_out"].isna()]
    for number, start in enumerate(range(0, len(files), CHUNK)):
        part = files.iloc[start : start + CHUNK]
        described = tuple(zip(part["path"], part["file_bytes"], part["changed_ns"], strict=True))
        yield StageTask(stem=f"{folder}{os.sep}{number:06d}", encoding=encoding, files=described)


def with_records(rows: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """The rows with what the first pass found: chunk, staged_offset, length, crc32, width, height, copied, hash, flat,
    sha256, and left_out where an image cannot be used."""
    files = np.flatnonzero(rows["left_out"].isna())
    stems = [f"{folder}{os.sep}{number:06d}" for number in range(-(-len(files) // CHUNK))]
    records = np.concatenate([read_records(stem) for stem in stems])
    assert len(records) == len(files)
    rows = rows.assign(chunk=-1, hash=np.uint64(0), flat=True, copied=False, staged_offset=-1)
    rows = rows.assign(length=np.int32(0), crc32=np.uint32(0), width=np.int32(0), height=np.int32(0))
    rows["sha256"] = pd.Series(np.nan, rows.index, dtype="str")
    rows.loc[files, "chunk"] = np.arange(len(files)) // CHUNK
    rows.loc[files, "staged_offset"] = records["offset"]
    for name in ("length", "crc32", "width", "height", "copied", "hash", "flat"):
        rows.loc[files, name] = records[name]
    good = records["reason"] == ""
    rows.loc[files[good], "sha256"] = records["sha256"][good].astype(str)
    rows.loc[files[~good], "left_out"] = [f"cannot be used: {reason}" for reason in records["reason"][~good]]
    return rows


def find_duplicates(rows: pd.DataFrame, official: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """All pairs of rows that show one picture (see duplicates.list_pairs); needs the columns of `with_records`."""
    same = duplicates.same_files(rows["sha256"])
    # Of files with equal bytes one stands for all, so that a thousand copies do not make half a million pairs.
    seen = np.ones(len(rows), dtype=bool)
    seen[same[:, 1]] = False
    shown = np.flatnonzero(rows["sha256"].notna() & ~rows["flat"] & seen)
    # The position of each row inside its chunk.
    place = rows.groupby("chunk").cumcount().to_numpy()
    chunk = rows["chunk"].to_numpy()
    thumbs_of = lru_cache(maxsize=16)(lambda number: read_thumbs(f"{folder}{os.sep}{number:06d}"))

    def thumbs(numbers: duplicates.Rows) -> Pixels:
        asked = shown[numbers]
        return (
            np.stack([thumbs_of(chunk[row])[place[row]] for row in asked])
            if len(asked)
            else np.empty((0, 32, 32), np.uint8)
        )

    alike = find_pairs(rows["hash"].to_numpy(np.uint64)[shown], thumbs)
    alike.rows[:] = shown[alike.rows]
    return duplicates.list_pairs(rows, official, same, alike)


def decided(rows: pd.DataFrame, pairs: pd.DataFrame, config: PrepConfig) -> pd.DataFrame:
    """The rows with group, fold, duplicate_cluster, duplicate_decision and, for the copies that go, left_out."""
    verdict = duplicates.decide(rows, pairs, config.duplicates)
    groups = duplicates.group_names(rows, duplicates.links(rows, pairs))
    rows = rows.assign(group=groups, duplicate_cluster=verdict["cluster"], duplicate_decision=verdict["decision"])
    if config.folds_file:
        rows["fold"] = folds.read_folds(Path(config.folds_file), rows)
    else:
        rows["fold"] = own_folds(rows, pairs, config)
    copies = verdict["copy_of"].notna()
    rows.loc[copies, "left_out"] = "duplicate of " + verdict["copy_of"][copies]
    return shuffled(rows, config.seed)


def own_folds(rows: pd.DataFrame, pairs: pd.DataFrame, config: PrepConfig) -> npt.NDArray[np.int8]:
    """Our fold of each row, int8 [N]: made from what the tables know, then moved where pictures join more."""
    ignored = config.duplicates == "keep"
    official = duplicates.links(rows, pairs[pairs["official"] & (not ignored)])
    base = duplicates.group_names(rows, official)
    fold = folds.assign_folds(rows, base, folds=config.folds, seed=config.seed, scheme=config.fold_scheme)
    return fold if ignored or config.fold_scheme == "random" else folds.follow(fold, base, rows["group"])


def audit(rows: pd.DataFrame, config: PrepConfig) -> str | None:
    """Prove that no group spans folds; None, or for the schemes that may leak the warning to stamp the set with.

    Raises UserError with the groups that span folds.
    """
    leaking = folds.leaking_groups(rows)
    why = "--fold-scheme random" if config.fold_scheme == "random" else "--duplicates keep"
    may_leak = config.folds_file is None and (config.fold_scheme == "random" or config.duplicates == "keep")
    if leaking and not may_leak:
        first = leaking[0]
        keys = ", ".join(sorted(rows["key"][(rows["group"] == first) & rows["left_out"].isna()])[:4])
        raise UserError(
            f"{len(leaking)} groups span several folds, first {first} ({keys}): the folds leak; no shard set was made"
        )
    if not may_leak:
        return None
    return f"made with {why}: {len(leaking):,} patients, lesions or duplicates span several folds; for comparison only"


def shuffled(rows: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Kept rows by split and fold, within each in an order that hashes of (seed, key) decide; the others last."""
    digests = (hashlib.blake2b(f"{seed}/{key}".encode(), digest_size=8).digest() for key in rows["key"])
    order = np.fromiter((int.from_bytes(digest, "big") for digest in digests), dtype=np.uint64, count=len(rows))
    split = rows["split"].map({"train": 0, "test": 1, "extra": 2})
    rows = rows.assign(order=order, out=rows["left_out"].notna(), split_order=split)
    rows = rows.sort_values(["out", "split_order", "fold", "order"], kind="stable", ignore_index=True)
    return rows.drop(columns=["order", "out", "split_order"])


def outside_overlap(rows: pd.DataFrame, pairs: pd.DataFrame) -> str | None:
    """What an outside set shares with the training rows, by name and by picture; None without an outside set."""
    outside = (rows["source"] == OUTSIDE).to_numpy()
    if not outside.any():
        return None
    named = rows["left_out"].eq("the name of an image of the downloads")
    train = ((rows["split"] == "train") & (rows["source"] != OUTSIDE)).to_numpy()
    ends = pairs[["row_1", "row_2"]].to_numpy()
    crossing = (outside[ends[:, 0]] & train[ends[:, 1]]) | (outside[ends[:, 1]] & train[ends[:, 0]])
    shared = np.unique(ends[crossing][outside[ends[crossing]]])
    return (
        f"outside set: {outside.sum():,} rows; {named.sum():,} have the name of an image of the downloads (left out), "
        f"{len(shared):,} show a picture of the training set (listed in duplicates.csv)"
    )
