"""Predictions that this project did not make: CSV files of anybody, joined by key into one table."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from configs.csvtext import numbers as as_numbers
from configs.csvtext import read_text
from configs.csvtext import shown as as_written
from configs.errors import UserError, check, check_ranges, nearest, ranged
from configs.schema import Combine
from evaluation.discrimination import Bools, Floats
from evaluation.table import OutOfFold, Whole

_NOTHING = ["", "NA", "N/A", "nan", "NaN", "null"]
_KEYS = ("image_name", "key", "isic_id", "image", "id")


@dataclass(frozen=True, kw_only=True)
class ForeignConfig:
    """Settings of `python -m evaluation.ensemble`."""

    files: list[str] = field(default_factory=list)
    """CSV files, one for each model, with the same samples (may be given without --files, in front)."""
    target: str = "target"
    """Column with 1 for melanoma and 0 for the rest, in --truth or else in the first file."""
    truth: str = ""
    """CSV file with target, fold, group and source, if they are not in the first file."""
    key: str = ""
    """Column that names the samples; default: image_name, key, isic_id, image or id, else the first column."""
    score: str = ""
    """Column with the prediction, 0 to 1; default: the only column of numbers of 0 to 1 that has no other meaning."""
    fold: str = ""
    """Column with the fold in which each sample was held out; default: --folds of them are drawn."""
    group: str = ""
    """Column with the patient or lesion; default: each sample by itself."""
    source: str = ""
    """Column with 2019, 2020 or 0 for others; default: 0."""
    folds: int = ranged(5, low=2)
    """How many folds to draw, without --fold (2 or more)."""
    combine: Combine = "mean"
    """mean of probabilities, mean of ranks, or weighted mean of probabilities."""
    per_source: bool = False
    """Calibrate each source by itself."""
    draws: int = ranged(1000, low=100)
    """Draws of the bootstrap over groups (100 or more)."""
    seed: int = ranged(0, low=0)
    """Seed of the bootstrap and of the folds that are drawn."""
    out: str = ""
    """Where to write the figures (a name that ends in .json) or the combined predictions (.csv)."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if not self.files:
            raise UserError("no predictions are given: name one CSV file or more, such as A.csv B.csv")
        if len(set(self.files)) < len(self.files):
            raise UserError("the same file is given twice: name each once")
        check(self.out == "" or Path(self.out).suffix in (".json", ".csv"), "out", self.out, "end it in .json or .csv")


def read_foreign(config: ForeignConfig) -> tuple[OutOfFold, list[str]]:
    """The joined table, and remarks for the user. Raises UserError that names the file, column or row to mend."""
    files = {name: _read(Path(name), config.key) for name in config.files}
    first = files[config.files[0]]
    for name, rows in files.items():
        _require_keys(rows, name, first, config.files[0])
        _require_keys(first, config.files[0], rows, name)
    truth, remarks = _truth(config, first)
    truth_name = config.truth or config.files[0]
    group = column(truth, config.group, truth_name) if config.group else truth.index.to_series()
    target = numbers(truth, config.target, truth_name, (0, 1))
    for value, what in ((1, "a melanoma"), (0, "anything but melanoma")):
        if not (target == value).any():
            raise UserError(
                f"{truth_name}, column {config.target}: none of {len(target):,} rows is {what}: nothing to judge"
            )
    source = numbers(truth, config.source, truth_name, (2019, 2020, 0)) if config.source else 0 * target
    if config.fold:
        fold = np.unique(column(truth, config.fold, truth_name).to_numpy(), return_inverse=True)[1]
    else:
        fold = drawn_folds(group.to_numpy(), target.to_numpy() == 1, config.folds, config.seed)
        of_what = f"by {config.group}" if config.group else "sample by sample, since --group names no column"
        remarks.append(f"{config.folds} folds were drawn {of_what}, since --fold names no column")
    meant = {config.fold, config.group, config.source, "" if config.truth else config.target}
    oof = OutOfFold(
        key=first.index.to_numpy().astype(str),
        fold=fold,
        source=source.to_numpy(),
        target=target.to_numpy(),
        group=group.to_numpy(),
        models=_names(config.files),
        scores=np.stack([_score(rows.loc[first.index], name, config.score, meant) for name, rows in files.items()]),
    )
    return oof, remarks


def _truth(config: ForeignConfig, first: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The rows of --truth, or else of the first file, in the order of the first file, and remarks."""
    if not config.truth:
        return first, []
    truth = _read(Path(config.truth), config.key)
    _require_keys(truth, config.truth, first, config.files[0])
    unused = len(truth) - len(first)
    said = f"{unused:,} of the {len(truth):,} rows of {config.truth} have no prediction and are left out"
    return truth.loc[first.index], [said] if unused else []


def drawn_folds(group: ArrayLike, target: Bools, folds: int, seed: int) -> Whole:
    """A fold for each sample [N], whole groups [N] together, those with melanoma spread evenly over the folds."""
    _, number = np.unique(np.asarray(group).astype(str), return_inverse=True)
    has_melanoma = np.bincount(number, target) > 0
    order = np.lexsort((np.random.default_rng(seed).random(len(has_melanoma)), has_melanoma))
    fold_of = np.empty(len(order), dtype=np.int64)
    fold_of[order] = np.arange(len(order)) % folds
    return fold_of[number]


def _read(path: Path, key: str) -> pd.DataFrame:
    """A CSV file by key, which is a column no longer."""
    rows = read_csv(path)
    name = key or usual_key(rows) or rows.columns[0]
    return keyed(rows, name, str(path)).drop(columns=name)


def read_csv(path: Path) -> pd.DataFrame:
    """A table of text as strings, its rows named "row 1" and so on; empty cells are missing."""
    rows = read_text(path, "give CSV files of predictions")
    rows = rows.mask(rows.isin(_NOTHING))
    if rows.empty:
        raise UserError(f"{path} has no rows")
    return rows.set_axis([f"row {number}" for number in range(1, len(rows) + 1)])


def usual_key(rows: pd.DataFrame) -> str:
    """The first column with a name that keys usually have; empty if there is none."""
    return next((each for each in _KEYS if each in rows.columns), "")


def keyed(rows: pd.DataFrame, name: str, file: str) -> pd.DataFrame:
    """The rows named by a column in which each cell is there once."""
    keys = column(rows, name, file)
    if keys.duplicated().any():
        twice = keys[keys.duplicated()].iloc[0]
        raise UserError(f"{file}, column {name}: {twice!r} is there twice: give each key once")
    return rows.set_axis(keys.to_numpy())


def _require_keys(rows: pd.DataFrame, name: str, wanted: pd.DataFrame, wanted_by: str) -> None:
    missing = wanted.index.difference(rows.index)
    if len(missing):
        lacking = f"{len(missing):,} of the {len(wanted):,} keys of {wanted_by}, such as {missing[0]}"
        raise UserError(f"{name} lacks {lacking}: give files of the same samples, or --key if the column is another")


def column(rows: pd.DataFrame, name: str, file: str) -> pd.Series:
    """A column without missing cells."""
    if name not in rows.columns:
        has = f"it has {', '.join(rows.columns)}"
        raise UserError(f"{file} has no column {name!r}; {has}{nearest(name, rows.columns)}")
    if (rows.columns == name).sum() > 1:
        raise UserError(f"{file} has several columns {name!r}: remove all but one")
    missing = rows[name].isna()
    if missing.any():
        raise UserError(
            f"{file}, column {name}: {int(missing.sum())} empty cells, the first for {rows.index[missing][0]}"
        )
    return rows[name]


def numbers(
    rows: pd.DataFrame, name: str, file: str, allowed: Sequence[int] = (), *, bounded: bool = True
) -> pd.Series:
    """A column of numbers, each one of `allowed`, or 0 to 1, or finite if it need not be `bounded`."""
    text = column(rows, name, file)
    found = as_numbers(text, file)
    if allowed:
        good, wanted = found.isin(allowed), " or ".join(map(str, allowed))
    elif bounded:
        good, wanted = found.between(0, 1), "a number of 0 to 1"
    else:
        good, wanted = found.abs() < np.inf, "a number"
    if not good.all():
        where = f"{file}, column {name}, {rows.index[~good][0]}"
        raise UserError(f"{where}: {as_written(text[~good].iloc[0])}, wanted {wanted} ({int((~good).sum())} such rows)")
    return found


def _score(rows: pd.DataFrame, file: str, name: str, meant: set[str]) -> Floats:
    """The predictions of one file [N], from the column `name` or the only one that can be meant."""
    if not name:
        others = [each for each in rows.columns if each not in meant]
        possible = [each for each in others if as_numbers(rows[each], file).between(0, 1).all()]
        if len(possible) != 1:
            found = ", ".join(possible) or "none"
            raise UserError(f"{file}: columns of numbers of 0 to 1: {found}; name the prediction's with --score")
        name = possible[0]
    return numbers(rows, name, file).to_numpy(dtype=np.float64)


def _names(files: Sequence[str]) -> tuple[str, ...]:
    """Short names of the models, each once."""
    stems = tuple(Path(name).stem for name in files)
    return stems if len(set(stems)) == len(stems) else tuple(files)
