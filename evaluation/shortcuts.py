"""Shortcuts: what can be scored without looking at a picture, and how much of a model's AUC the source alone carries.

Nine in ten melanomas of the merged set are from 2019, so that whatever tells the year tells the label.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from evaluation.calibration import clipped_logit
from evaluation.discrimination import SOURCES, Bools, Estimate, Floats
from evaluation.stratified import clustered_interval, stratified_auc
from evaluation.table import Whole, left_out, obstacle

Way = Literal["logistic", "boosted"]
WAYS: tuple[Way, ...] = ("logistic", "boosted")
PATIENT = ("age", "sex", "site")
SHORTCUTS: Mapping[str, tuple[str, ...]] = {
    "source": ("source",),
    "sub-source": ("subsource",),
    "what is missing": ("age_missing", "sex_missing", "site_missing"),
    "pixel dimensions": ("width", "height", "aspect"),
    "images of the patient": ("n_images",),
    "file size": ("file_bytes",),
    "age, sex, site": PATIENT,
    "age, sex, site, source": (*PATIENT, "source"),
    "all of these": (*PATIENT, "source", "subsource", "width", "height", "n_images", "file_bytes"),
}
"""What a score without a picture is made of: names of columns of `facts_of`."""
PARTS = ("merged", *reversed(SOURCES), "within")
"""Pairs that an AUC is over: all, those of one source, and those of the same source, whichever it is."""

_NUMBERS = {"age", "width", "height", "aspect", "n_images", "file_bytes"}
_BINS = 20  # of equal count, for a number in the logistic regression


@dataclass(frozen=True, kw_only=True)
class Shortcut:
    """A score that is made without a picture."""

    name: str
    """A key of SHORTCUTS."""
    way: Way
    """logistic: numbers in 20 bins and everything one-hot; boosted: 50 small trees."""
    auc: dict[str, Estimate]
    """For each of PARTS, over pairs of one fold, with its interval over groups; NaN where a class is missing."""


@dataclass(frozen=True, kw_only=True)
class SourceShare:
    """How much of a score's merged AUC is owed to the source."""

    merged: Estimate
    """AUC over all pairs of a melanoma and another."""
    within: Estimate
    """AUC over the pairs of one source only."""
    between: float
    """AUC over the pairs of two sources; NaN with one source."""
    pairs_within: float
    """Share of the pairs that are of one source: merged = pairs_within x within + (1 - pairs_within) x between."""
    share: Estimate
    """1 - (within - 0.5) / (merged - 0.5): the share of the merged AUC above chance that is gone within sources. Below
    0 where the score is better within than between sources."""
    gain_if_told: Estimate
    """What the AUC over pairs of one fold gains, once a logistic regression adds the source to the score: about 0 where
    the score already knows the source, or where nothing can be cross-fitted."""


def facts_of(rows: pd.DataFrame) -> pd.DataFrame:
    """The columns that SHORTCUTS name, of a table with source, subsource, sex, age, site, n_images and, if they are
    known, width, height (pixels of the original) and file_bytes."""
    facts = rows[[name for name in ("source", "subsource", *PATIENT) if name in rows]].copy()
    for name in PATIENT:
        facts[f"{name}_missing"] = rows[name].isna()
    for name in _NUMBERS & set(rows.columns):
        facts[name] = rows[name].astype("float64")
    if {"width", "height"} <= set(rows.columns):
        facts["aspect"] = facts["width"] / facts["height"]
    return facts


def shortcuts(facts: pd.DataFrame, target: Bools, fold: Whole, group: Whole, source: Whole) -> tuple[Shortcut, ...]:
    """Score every one of SHORTCUTS whose columns are there, both ways, cross-fitted under the folds that are given.

    facts [N rows] are those of `facts_of`; target, fold, group and source [N] as in OutOfFold. AUCs count pairs of one
    fold, since the scores of two fits are not comparable: G. Forman, M. Scholz, "Apples-to-Apples in Cross-Validation
    Studies", ACM SIGKDD Explorations 12(1), 2010, 49-57. Raises ValueError where nothing can be cross-fitted
    (`obstacle`).
    """
    if reason := obstacle(target, fold):
        raise ValueError(reason)
    found = []
    for name, columns in SHORTCUTS.items():
        if set(columns) <= set(facts.columns):
            for way in WAYS:
                score = cross_fitted(facts[list(columns)], target, fold, way)
                found.append(Shortcut(name=name, way=way, auc=_by_part(score, target, fold, group, source)))
    return tuple(found)


def _by_part(score: Floats, target: Bools, fold: Whole, group: Whole, source: Whole) -> dict[str, Estimate]:
    """The AUC of a cross-fitted score [N] for each of PARTS, over pairs of one fold."""
    within = [f"{one}/{year}" for one, year in zip(fold, source, strict=True)]
    areas = {"merged": stratified_auc(target, score, fold), "within": stratified_auc(target, score, within)}
    for year in SOURCES:
        areas[year] = stratified_auc(target, np.where(source == int(year), score, np.nan), fold)
    return {part: clustered_interval(areas[part].value, areas[part].influence, group) for part in PARTS}


def cross_fitted(columns: pd.DataFrame, target: Bools, fold: Whole, way: Way) -> Floats:
    """Log odds [N] of rows that the fit has not seen: fitted on the other folds. Columns that are not numbers are
    categories; what is missing is a category too, and what the fit has not met tells it nothing."""
    score = np.empty(len(target))
    for others, held_out in left_out(fold):
        model: Any
        if way == "logistic":
            table = np.stack([_bins(columns[name], others) for name in columns], axis=1)
            model = make_pipeline(OneHotEncoder(handle_unknown="ignore"), LogisticRegression(max_iter=1000))
        else:
            table = np.stack([_numbers(columns[name]) for name in columns], axis=1)
            table[:, np.isnan(table[others]).all(axis=0)] = 0.0  # a column without any number cannot be binned
            model = HistGradientBoostingClassifier(
                max_iter=50,
                max_leaf_nodes=15,
                min_samples_leaf=50,
                early_stopping=False,
                random_state=0,
                categorical_features=[name not in _NUMBERS for name in columns],
            )
        score[held_out] = model.fit(table[others], target[others]).decision_function(table[held_out])
    return score


def source_share(score: Floats, target: Bools, fold: Whole, group: Whole, source: Whole) -> SourceShare:
    """How much of the merged AUC of a score [N] from 0 to 1 the source carries; arrays as for `shortcuts`."""
    merged, within = stratified_auc(target, score, np.zeros_like(source)), stratified_auc(target, score, source)
    told = score if obstacle(target, fold) else _told_source(score, target, fold, source)
    before, after = stratified_auc(target, score, fold), stratified_auc(target, told, fold)
    kept = within.pairs / max(merged.pairs, 1)
    above = merged.value - 0.5 if merged.value > 0.5 else math.nan
    share = 1 - (within.value - 0.5) / above
    return SourceShare(
        merged=clustered_interval(merged.value, merged.influence, group),
        within=clustered_interval(within.value, within.influence, group),
        between=(merged.value - kept * within.value) / (1 - kept) if kept < 1 else math.nan,
        pairs_within=kept,
        share=clustered_interval(share, ((1 - share) * merged.influence - within.influence) / above, group),
        gain_if_told=clustered_interval(after.value - before.value, after.influence - before.influence, group),
    )


def _told_source(score: Floats, target: Bools, fold: Whole, source: Whole) -> Floats:
    """Log odds [N] from the score's own log odds and the source, cross-fitted."""
    table = np.column_stack([clipped_logit(score), *(source == one for one in np.unique(source)[1:])])
    told = np.empty(len(score))
    for others, held_out in left_out(fold):
        told[held_out] = LogisticRegression().fit(table[others], target[others]).decision_function(table[held_out])
    return told


def _numbers(column: pd.Series) -> Floats:
    """A number as it is, NaN where it is missing; a category as 0, 1, ..., -1 where it is missing."""
    if column.name in _NUMBERS:
        return column.to_numpy(dtype=np.float64)
    return pd.factorize(column, sort=True)[0].astype(np.float64)


def _bins(column: pd.Series, fitted: Bools) -> Floats:
    """A category as in `_numbers`; a number as its bin between quantiles of the rows that are fitted, -1 if missing."""
    values = _numbers(column)
    if column.name not in _NUMBERS:
        return values
    known = values[fitted & ~np.isnan(values)]
    edges = np.unique(np.quantile(known, np.arange(1, _BINS) / _BINS)) if len(known) else known
    return np.where(np.isnan(values), -1.0, np.searchsorted(edges, values, side="right"))
