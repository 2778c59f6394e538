"""Cross-validation folds that no patient, lesion or duplicate crosses, stratified by source and melanoma."""

import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from configs.errors import UserError, note
from configs.prep import MOST_FOLDS, FoldScheme, PrepConfig
from prep import duplicates
from prep.columns import FOLD, KEY
from prep.csvfile import read_csv, whole_numbers
from prep.stratified import stratified_group_folds
from prep.tables import OUTSIDE, UNNAMED

_ARCHIVES = ("BCN", "HAM", "MSK")


def decide_folds(rows: pd.DataFrame, pairs: pd.DataFrame, config: PrepConfig) -> npt.NDArray[np.int8]:
    """Fold of each row, int8 [N]: from --folds-file, or else by the groups that the tables give, after which the groups
    that a duplicate joins move into one fold. Reads group, duplicate_cluster and left_out of `rows`; `pairs` are from
    `duplicates.list_pairs`."""
    if config.folds_file:
        return _with_copies(read_folds(Path(config.folds_file), rows), rows, config.folds_file)
    ignored = config.duplicates == "keep"
    official = duplicates.links(rows, pairs[pairs["official"] & (not ignored)])
    base = duplicates.group_names(rows, official)
    fold = assign_folds(rows, base, folds=config.folds, seed=config.seed, scheme=config.fold_scheme)
    return fold if ignored or config.fold_scheme == "random" else follow(fold, base, rows["group"])


def assign_folds(
    table: pd.DataFrame, groups: pd.Series, *, folds: int, seed: int, scheme: FoldScheme = "grouped"
) -> npt.NDArray[np.int8]:
    """Fold of each row, int8 [N]: 0 to folds-1 for training rows, -1 for the others.

    Strata are the sub-source (their melanoma rates differ) times the target. Training rows without an image take part
    too, so that the folds depend on the tables alone. The scheme `random` ignores the groups: its folds leak.
    """
    fold = np.full(len(table), -1, dtype=np.int8)
    train = np.flatnonzero((table["split"] == "train").to_numpy())
    rows = table.iloc[train]
    if groups.iloc[train].nunique() < folds:
        raise UserError(f"folds={folds}, but there are only {groups.iloc[train].nunique()} patients and lesions")
    strata = subsource(rows) + "/" + rows["target"].astype(str)
    if strata.value_counts().max() < folds:
        raise UserError(f"folds={folds}, but no source has so many rows of one class: give more images or fewer folds")
    # Integer codes in the order of the names: the same folds at a tenth of the memory.
    classes, members = pd.factorize(strata, sort=True)[0], pd.factorize(groups.iloc[train], sort=True)[0]
    if scheme == "grouped":
        fold[train] = stratified_group_folds(classes, members, folds=folds, seed=seed)
        return fold
    from sklearn.model_selection import StratifiedKFold  # here: it takes a second, and the other scheme needs none

    with warnings.catch_warnings():
        # A stratum with fewer rows than folds cannot be in each of them; training reports it where it matters.
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
        for number, (_, held_out) in enumerate(splitter.split(train, classes)):
            fold[train[held_out]] = number
    return fold


def follow(fold: npt.NDArray[np.int8], base: pd.Series, groups: pd.Series) -> npt.NDArray[np.int8]:
    """The folds of `base` groups, changed where larger `groups` join several of them: all take the fold of the largest.

    So a duplicate that only the pictures show moves the rows it joins and no others. Ties go to the first name.
    """
    train = np.flatnonzero(fold >= 0)
    parts = pd.DataFrame({"fold": fold[train], "base": base.to_numpy()[train], "group": groups.to_numpy()[train]})
    sizes = parts.groupby(["group", "base"], as_index=False).agg(size=("fold", "size"), fold=("fold", "first"))
    first = sizes.sort_values(["group", "size", "base"], ascending=[True, False, True]).groupby("group")["fold"].first()
    moved = fold.copy()
    moved[train] = first[parts["group"]].to_numpy()
    return moved


def read_folds(csv: Path, table: pd.DataFrame) -> npt.NDArray[np.int8]:
    """The folds that a CSV (image_name, fold) assigns to the training rows, int8 [N]; -1 for the others, and for those
    that it leaves without a fold by that number.

    Raises UserError where a training row is not in it, or where the folds are not 0, 1, ... without a gap.
    """
    rows = read_csv(csv, KEY | FOLD)
    wanted = f"a fold of 0 to {MOST_FOLDS - 1}, or -1 for none"
    numbers = whole_numbers(rows, "fold", range(-1, MOST_FOLDS), csv, wanted=wanted)
    used = np.unique(numbers[numbers >= 0])
    if len(used) < 2 or used[-1] != len(used) - 1:
        found = ", ".join(map(str, used))
        raise UserError(f"{csv}: its folds are {found}; wanted 0, 1, ... without a gap, two or more")
    train = (table["split"] == "train") & (table["left_out"] != UNNAMED)
    fold = table["key"].map(pd.Series(numbers.to_numpy(), index=rows["image_name"])).where(train, -1)
    absent = table["key"][fold.isna()]
    if len(absent):
        raise UserError(f"{csv} gives no fold to {len(absent)} training images, first {absent.iloc[0]}: add them")
    return fold.to_numpy(dtype=np.int8)


def _with_copies(fold: npt.NDArray[np.int8], rows: pd.DataFrame, csv: str) -> npt.NDArray[np.int8]:
    """The folds of a CSV, in which a kept training row without one (-1) has that of its copies: the CSV's author kept
    another of them. Raises UserError where they have none, or several."""
    known = pd.Series(fold, index=rows.index).where(lambda numbers: numbers >= 0)
    by_cluster = known.groupby(rows["duplicate_cluster"])
    of_copies = by_cluster.transform("min").where(by_cluster.transform("nunique") == 1)
    lacking = (rows["split"] == "train") & rows["left_out"].isna() & known.isna()
    alone = rows["key"][lacking & of_copies.isna()]
    if len(alone):
        what = f"fold -1 means none, which only an image that is left out may have; {len(alone):,} are kept"
        raise UserError(f"{csv}: {what}, first {alone.iloc[0]}: give them a fold")
    if lacking.any():
        first = rows["key"][lacking].iloc[0]
        note(f"{csv}: {lacking.sum():,} images of fold -1 are kept, in the fold of their copies, first {first}")
    return known.where(~lacking, of_copies).fillna(-1).to_numpy(dtype=np.int8)


def audit(rows: pd.DataFrame, config: PrepConfig) -> str | None:
    """The warning to store in a set whose scheme may leak, else None. Raises UserError where a group spans folds."""
    leaking = leaking_groups(rows)
    if config.folds_file is None and (config.fold_scheme == "random" or config.duplicates == "keep"):
        why = "--fold-scheme random" if config.fold_scheme == "random" else "--duplicates keep"
        groups = f"{len(leaking):,} patients, lesions or duplicates"
        return f"made with {why}: {groups} span several folds; for comparison only"
    if leaking:
        first = leaking[0]
        keys = ", ".join(sorted(rows["key"][(rows["group"] == first) & rows["left_out"].isna()])[:4])
        raise UserError(
            f"{len(leaking)} groups span several folds, first {first} ({keys}): the folds leak, no shard set was made: "
            "remove --folds-file to have folds assigned, or put each group into one fold"
        )
    return None


def leaking_groups(rows: pd.DataFrame) -> list[str]:
    """The groups whose kept training rows lie in several folds, sorted. Reads left_out, split, group and fold."""
    kept = rows.loc[rows["left_out"].isna() & (rows["split"] == "train"), ["group", "fold"]]
    spread = kept.groupby("group")["fold"].nunique()
    return sorted(spread.index[spread > 1])


def audit_lines(rows: pd.DataFrame, unsafe: str | None) -> list[str]:
    """What the audit of the folds can claim: it sees only the patients, lesions and duplicates that are known."""
    kept = rows.loc[rows["left_out"].isna() & (rows["split"] == "train"), ["source", "patient", "lesion"]]
    claim = "audit: no known patient, lesion or duplicate spans two folds; of the training images are known"
    lines = [f"WARNING: {unsafe}" if unsafe else claim]
    for source, part in kept.groupby("source"):
        name = "outside set" if source == OUTSIDE else str(source)
        patients, lesions = part["patient"].notna(), part["lesion"].notna()
        neither = f"{(~patients & ~lesions).sum():,} have neither"
        lines.append(
            f"  {name}: the patient of {patients.sum():,} (column patient) and the lesion of {lesions.sum():,} (column "
            f"lesion) of {len(part):,}; {neither}"
        )
        if source == OUTSIDE and not (patients | lesions).any():
            lines.append(
                "  WARNING: no column of a patient, lesion or group was recognised in the outside set: its folds"
            )
            lines[-1] += " may share patients; add patient_id, lesion_id or group to its table"
    return lines


def fold_table(rows: pd.DataFrame) -> str:
    """Kept training rows by fold, sub-source and target, as text: images and, in brackets, melanomas."""
    kept = rows.loc[rows["left_out"].isna() & (rows["split"] == "train"), ["fold", "subsource", "target"]]
    names = sorted(kept["subsource"].unique())
    lines = ["fold " + "".join(f"{name:>16}" for name in names) + f"{'all':>16}"]
    for fold, part in kept.groupby("fold"):
        targets = [part["target"][part["subsource"] == name] for name in names] + [part["target"]]
        lines.append(f"{fold:<5}" + "".join(f"{f'{len(one):,} ({one.sum():,})':>16}" for one in targets))
    return "\n".join(lines)


def subsource(rows: pd.DataFrame) -> pd.Series:
    """2020, outside, or for 2019 the archive that the lesion id names: BCN, HAM, MSK or none (str)."""
    archive = rows["lesion"].str.extract(r"^([A-Za-z]+)", expand=False)
    archive = archive.where(archive.isin(_ARCHIVES), "none")
    named = rows["source"].map({2020: "2020", 2019: "2019"}).fillna("outside")
    return named.where(named != "2019", archive).astype("str")
