"""What is known before any image is read: every row of the tables with its image file, and a digest of all inputs."""

import hashlib
import json
import os
from pathlib import Path

import pandas as pd

from configs.errors import UserError, note
from configs.prep import PrepConfig
from prep import folds
from prep.extra import read_extra
from prep.layout import find_pictures
from prep.metadata import images_per_patient
from prep.pack import PACKER
from prep.stage import Encoding
from prep.tables import OUTSIDE, merged_table, read_duplicate_pairs

# What decides the bytes of a shard set; its path and the number of processes that make it do not.
OPTIONS = ["size", "fit", "quality", "subsampling", "duplicates", "folds", "fold_scheme", "seed"]
OPTIONS += ["missing", "on_bad", "max_megapixels", "extra_role", "samples_per_shard", "keep_ids"]
NAME_TAKEN = "the name of an image of the downloads"
"""Why a row of an outside set is left out."""


def read_rows(config: PrepConfig, *, images: bool = True) -> pd.DataFrame:
    """Every row of the tables with its image file (see `find_pictures`), which with `images` False need not exist.

    Raises UserError where the tables do not fit, or where images are missing and may not be.
    """
    folders = [Path(folder) if folder else None for folder in (config.isic2020, config.isic2019, config.master)]
    rows = merged_table(*folders)
    rows["n_images"] = images_per_patient(rows)
    if config.extra:
        extra = read_extra(Path(config.extra), "extra" if config.extra_role == "evaluate" else "train")
        extra["left_out"] = pd.Series(NAME_TAKEN, extra.index, dtype="str").where(extra["key"].isin(rows["key"]))
        extra["n_images"] = images_per_patient(extra)
        rows = pd.concat([rows, extra], ignore_index=True)
    rows["subsource"] = folds.subsource(rows)
    rows = rows.join(find_pictures(rows))
    wanted = rows["left_out"].isna()
    absent = wanted & rows["path"].isna()
    if not wanted.any():
        raise UserError("the tables name no images: check the CSV files")
    _require_melanoma(rows[wanted & (rows["split"] == "train")])
    if images and absent.sum() == wanted.sum():
        where = rows["file"].fillna(rows["folder"] + os.sep + rows["key"])[absent].iloc[0]
        raise UserError(
            f"none of the {wanted.sum():,} images of the tables was found, for example {where}: unpack the images "
            "there or name the folder that holds them"
        )
    if images and absent.any() and config.missing == "fail":
        names = ", ".join(rows["key"][absent].head(10))
        raise UserError(
            f"{absent.sum():,} of {wanted.sum():,} images of the tables are missing in the folders, first {names}; "
            "complete the download or pass --missing skip; nothing was written"
        )
    rows.loc[absent, "left_out"] = "image file missing"
    return rows


def _require_melanoma(train: pd.DataFrame) -> None:
    """Raise UserError where no training row is a melanoma; a note names a source without one."""
    melanomas = train.groupby("source")["target"].agg(lambda target: int((target == 1).sum()))
    if not melanomas.any():
        raise UserError(f"none of the {len(train):,} training rows is a melanoma (target 1): check the tables")
    for source in melanomas.index[melanomas == 0]:
        if source != OUTSIDE:  # prep/extra.py says that itself
            note(f"none of the {(train['source'] == source).sum():,} training rows of {source} is a melanoma")


def inputs_digest(rows: pd.DataFrame, config: PrepConfig) -> str:
    """SHA-256 of all that decides the set: tables, names and sizes of the files, official pairs, an outside assignment
    of folds, options, and the versions of the code and libraries that write images and shards."""
    facts = rows.drop(columns=["folder", "file", "path", "changed_ns"])
    tables = hashlib.sha256(pd.util.hash_pandas_object(facts, index=False).to_numpy().tobytes())
    tables.update(read_duplicate_pairs(config.isic2020).to_csv(index=False).encode())
    if config.folds_file:
        tables.update(folds.read_folds(Path(config.folds_file), rows).tobytes())
    options = {name: getattr(config, name) for name in OPTIONS}
    described = [tables.hexdigest(), options, Encoding.of(config).described(), PACKER]
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()
