"""What is decided once the images are read: dropped copies, groups, folds, and the order of all samples."""

import hashlib
from dataclasses import dataclass

import numpy as np
import pandas as pd

from configs.prep import PrepConfig
from prep import duplicates, folds
from prep.extra import OWN
from prep.rows import NAME_TAKEN
from prep.tables import OUTSIDE


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a shard set will hold.

    `rows` are all rows of the tables, the kept ones (`left_out` is missing) first, in the order of the shards; `pairs`
    are those of duplicates.csv. `unsafe` says why the folds may leak, else None; `overlap` says what an outside set
    shares with the training rows, None without such a set.
    """

    config: PrepConfig
    rows: pd.DataFrame
    pairs: pd.DataFrame
    unsafe: str | None
    overlap: str | None

    @property
    def kept(self) -> int:
        """Number of kept rows, that is of samples."""
        return int(self.rows["left_out"].isna().sum())


def make_plan(rows: pd.DataFrame, pairs: pd.DataFrame, config: PrepConfig) -> Plan:
    """Decide about every row: group, fold, duplicate_cluster, duplicate_decision and, for dropped copies, left_out.

    `pairs` are those of `duplicates.list_pairs`. Raises UserError where the folds leak and may not.
    """
    verdict = duplicates.decide(rows, pairs, config.duplicates)
    groups = duplicates.group_names(rows, duplicates.links(rows, pairs))
    decided = rows.assign(group=groups, duplicate_cluster=verdict["cluster"], duplicate_decision=verdict["decision"])
    copies = verdict["copy_of"].notna()
    decided.loc[copies, "left_out"] = "duplicate of " + verdict["copy_of"][copies]
    decided["fold"] = folds.decide_folds(decided, pairs, config)
    return Plan(
        config=config,
        rows=_shuffled(decided, config.seed),
        pairs=_with_names(rows, pairs),
        unsafe=folds.audit(decided, config),
        overlap=_outside_overlap(rows, pairs),
    )


def _shuffled(rows: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Kept rows by split and fold, within each ordered by a hash of (seed, key); the others last."""
    digests = (hashlib.blake2b(f"{seed}/{key}".encode(), digest_size=8).digest() for key in rows["key"])
    order = np.fromiter((int.from_bytes(digest, "big") for digest in digests), dtype=np.uint64, count=len(rows))
    split = rows["split"].map({"train": 0, "test": 1, "extra": 2})
    rows = rows.assign(order=order, out=rows["left_out"].notna(), split_order=split)
    rows = rows.sort_values(["out", "split_order", "fold", "order"], kind="stable", ignore_index=True)
    return rows.drop(columns=["order", "out", "split_order"])


def _with_names(rows: pd.DataFrame, pairs: pd.DataFrame) -> pd.DataFrame:
    """The pairs by the names, splits and targets of their images instead of row numbers, sorted by name."""
    named = pd.DataFrame(index=pairs.index)
    for end in (1, 2):
        for name, column in (("image_name", "key"), ("split", "split"), ("target", "target")):
            named[f"{name}_{end}"] = rows[column].to_numpy()[pairs[f"row_{end}"]]
    named = named.join(pairs[["kind", "official", "correlation", "detail"]])
    return named.sort_values(["image_name_1", "image_name_2"], ignore_index=True)


def _outside_overlap(rows: pd.DataFrame, pairs: pd.DataFrame) -> str | None:
    """What an outside set shares with the training rows, by name and by picture; None without an outside set."""
    outside = (rows["source"] == OUTSIDE).to_numpy()
    if not outside.any():
        return None
    named = rows["left_out"].eq(NAME_TAKEN)
    train = ((rows["split"] == "train") & (rows["source"] != OUTSIDE)).to_numpy()
    ends = pairs[["row_1", "row_2"]].to_numpy()
    shared = np.unique(ends[outside[ends] & train[ends[:, ::-1]]])
    ids = rows[["patient", "lesion"]].apply(lambda column: column.str.removeprefix(OWN))
    known = ids.apply(lambda column: column.isin(column[train].dropna())).any(axis=1)
    return (
        f"outside set: {outside.sum():,} rows; {named.sum():,} have the name of an image of the downloads (left out), "
        f"{len(shared):,} show a picture of the training set (listed in duplicates.csv), "
        f"{(outside & known).sum():,} are of a patient or lesion of it"
    )
