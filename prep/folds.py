"""Cross-validation folds that no patient, lesion or duplicate crosses, alike in source and melanoma rate."""

import warnings

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold

from configs.errors import UserError


def assign_folds(table: pd.DataFrame, groups: pd.Series, *, folds: int, seed: int) -> npt.NDArray[np.int8]:
    """Fold of each row, int8 [N]: 0 to folds-1 for training rows, -1 for test rows.

    Depends on the tables alone, so a download with missing images gets the same folds as a complete one.
    Strata are the sub-source (2020, BCN, HAM, MSK4, none: their melanoma rates differ) times the target.
    """
    fold = np.full(len(table), -1, dtype=np.int8)
    train = np.flatnonzero((table["split"] == "train").to_numpy())
    rows = table.iloc[train]
    if groups.iloc[train].nunique() < folds:
        raise UserError(f"folds={folds}, but there are only {groups.iloc[train].nunique()} patients and lesions")
    strata = _subsource(rows) + "/" + rows["target"].astype(str)
    splitter = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=seed)
    if strata.value_counts().max() < folds:
        raise UserError(f"folds={folds}, but no source has so many rows of one class: give more images or fewer folds")
    with warnings.catch_warnings():
        # A stratum with fewer rows than folds cannot be in each of them; training says so where it matters.
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        for number, (_, held_out) in enumerate(splitter.split(train, strata, groups.iloc[train])):
            fold[train[held_out]] = number
    audit_folds(fold, groups)
    return fold


def audit_folds(fold: npt.NDArray[np.int8], groups: pd.Series) -> None:
    """Raise UserError that names the first group whose training rows (fold 0 or more) lie in several folds."""
    train = fold >= 0
    spread = pd.Series(fold[train]).groupby(groups.to_numpy()[train]).nunique()
    leaking = spread[spread > 1]
    if len(leaking):
        raise UserError(f"{len(leaking)} groups span several folds, first {leaking.index[0]!r}: the folds leak")


def _subsource(rows: pd.DataFrame) -> pd.Series:
    """2020, or the archive that the 2019 lesion id names, or none."""
    archive = rows["lesion"].str.extract(r"^([^_]+)", expand=False).fillna("none")
    return archive.where(rows["source"] == 2019, "2020").astype(str)
