"""--compare: the same images judged on other folds, beside the folds of the report.

Which folds a folder holds is seen in its rows: one source a fold, one sub-source a fold, or random ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from configs.errors import UserError
from engine.judging import OOF
from engine.predictor import read_record
from engine.tables import read_table
from evaluation.discrimination import Bools, Estimate
from evaluation.stratified import clustered_interval, stratified_auc
from report.case import Case
from report.page import Cell, Table

Kind = Literal["source", "subsource", "random"]
LEAST = 50
"""Melanomas below which an AUC is not shown."""
PURE = 0.99
"""Least share of a fold's rows that are of its source: a group that holds both must lie in one fold."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """AUCs of the same images under two assignments of folds."""

    folder: str
    """Where the other one comes from."""
    rows: str
    """Which images: "all", or those of a source or sub-source."""
    images: int
    """How many of them both have judged."""
    melanomas: int
    """Melanomas among them."""
    there: Estimate
    """AUC under the other folds."""
    here: Estimate
    """AUC of the report's ensemble on the same images."""
    difference: Estimate
    """there - here, paired, with its interval over groups."""


def comparisons(case: Case, kind: Kind) -> list[Comparison]:
    """What the folders of --compare that hold folds of this kind say, in their order.

    Raises UserError for a folder that infer.py --ensemble did not write, that has no image of this report, or whose
    folds are of no known kind.
    """
    found = []
    for folder in case.config.compare:
        joined = _joined(case, Path(folder))
        if kind_of(joined, folder) == kind:
            found += _compared(joined, folder, kind)
    return found


def kind_of(rows: pd.DataFrame, folder: str) -> Kind:
    """Which folds these are, of rows with other_fold, source, subsource and group. Raises UserError for none."""
    columns: tuple[Kind, Kind] = ("source", "subsource")
    for column in columns:
        if _one_each(rows["other_fold"], rows[column]):
            return column
    if (rows.groupby("group")["other_fold"].nunique() > 1).any():
        return "random"
    raise UserError(
        f"--compare {folder}: its folds are neither one source each, nor one sub-source each, nor random (no group "
        "spans two): there is nothing to compare; give an ensemble that was trained on such folds"
    )


def _one_each(fold: pd.Series, values: pd.Series) -> bool:
    """Whether there are two folds or more, and each holds nearly all rows of one value and nearly nothing else."""
    counts = pd.crosstab(fold, values).to_numpy()
    largest = counts.max(axis=1)
    alone = (largest >= PURE * counts.sum(axis=1)).all() and (counts.max(axis=0) >= PURE * counts.sum(axis=0)).all()
    return bool(len(counts) > 1 and counts.shape[0] == counts.shape[1] and alone)


def _joined(case: Case, folder: Path) -> pd.DataFrame:
    """Rows that both have judged: those of case.judged with this report's score, and other_fold and other_score."""
    again = f"give a folder that infer.py --ensemble wrote, not {folder}"
    read_record(folder)
    table = read_table(folder / OOF)[["key", "fold", "target", "raw"]]
    here = case.judged.drop(columns=["fold"]).assign(score=case.judgement.raw)
    other = table.rename(columns={"fold": "other_fold", "target": "other_target", "raw": "other_score"})
    rows = here.merge(other, on="key", validate="one_to_one")
    if rows.empty:
        raise UserError(f"--compare {folder}: it has judged no image that this report has judged: {again}")
    wrong = rows["key"][rows["target"] != rows["other_target"]]
    if len(wrong):
        raise UserError(
            f"--compare {folder}: {len(wrong)} images have another target there, first {wrong.iloc[0]}: judge both on "
            "sets that were built from the same tables"
        )
    return rows


def _compared(rows: pd.DataFrame, folder: str, kind: Kind) -> list[Comparison]:
    if kind == "random":
        parts = {"all": np.ones(len(rows), dtype=np.bool_)}
        parts |= {str(source): (rows["source"] == source).to_numpy() for source in sorted(rows["source"].unique())}
    else:
        # Of a fold's few rows of another source, whose like was trained on, nothing is to be learnt.
        own = rows.groupby("other_fold")[kind].agg(lambda values: values.mode().iloc[0])
        of_fold = (rows["other_fold"].map(own) == rows[kind]).to_numpy()
        parts = {str(name): of_fold & (rows[kind] == name).to_numpy() for name in sorted(rows[kind].unique())}
    return [_comparison(rows, chosen, folder, name) for name, chosen in parts.items()]


def _comparison(rows: pd.DataFrame, chosen: Bools, folder: str, name: str) -> Comparison:
    part = rows[chosen]
    target, group = (part["target"] == 1).to_numpy(), part["group"].to_numpy()
    once = np.zeros(len(part))
    there, here = (stratified_auc(target, part[column], once) for column in ("other_score", "score"))
    return Comparison(
        folder=folder,
        rows=name,
        images=len(part),
        melanomas=int(target.sum()),
        there=clustered_interval(there.value, there.influence, group),
        here=clustered_interval(here.value, here.influence, group),
        difference=clustered_interval(there.value - here.value, there.influence - here.influence, group),
    )


def table_of(name: str, caption: str, found: Sequence[Comparison]) -> Table:
    """A row for each comparison; fewer than 50 melanomas are too few for a figure."""
    rows: list[dict[str, Cell]] = []
    for one in found:
        enough = one.melanomas >= LEAST
        rows.append(
            {
                "folder": one.folder,
                "images of": one.rows,
                "images": one.images,
                "melanomas": one.melanomas,
                "AUC there": one.there if enough else "too few",
                "AUC here": one.here if enough else "too few",
                "there - here": one.difference if enough else "too few",
            }
        )
    return Table(name=name, caption=caption, rows=rows)


def not_measured(case: Case, kind: Kind) -> Table:
    """The command lines that would make a folder to compare with."""
    name, folds = ("random", "--fold-scheme random") if kind == "random" else ("by-source", "--folds-file folds.csv")
    source = (
        f"import pandas as pd; r = pd.read_parquet('{case.config.shards}/samples.parquet'); r = r[r.split == 'train']; "
        "f = r.groupby('group').source.transform('max').map({2020: 0, 2019: 1}); "
        "pd.DataFrame({'image_name': r.key, 'fold': f}).to_csv('folds.csv', index=False)"
    )
    steps = {
        "build": f"python prep/shard.py --isic2020 DIR --isic2019 DIR {folds} --size {case.shards.size} "
        f"--out shards/{name}",
        "train": f"python train.py --shards shards/{name} --fold all --out runs/{name} (as the members were trained)",
        "judge": f"python infer.py --ensemble --runs runs/{name} --shards shards/{name} --out runs/{name}/outputs",
        "compare": f"python -m report --runs {case.config.runs} --shards {case.config.shards} "
        f"--compare runs/{name}/outputs",
    }
    caption = "Not measured: what random folds, which leak, would have claimed. These commands measure it."
    if kind != "random":
        steps = {"assign folds": f'python -c "{source}"', **steps}
        caption = (
            "Not measured: the ensemble on a source that it was not trained on. These commands measure it (2020 "
            "becomes fold 0, and a group that holds both years counts as 2020). For sub-sources, number the values of "
            "r.subsource instead."
        )
    rows: list[dict[str, Cell]] = [{"step": step, "command": command} for step, command in steps.items()]
    return Table(name=f"not_measured_{kind}", caption=caption, rows=rows, folded=True)
