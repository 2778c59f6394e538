"""Every figure of one score as one long table: what `python -m evaluation.metrics` prints and writes."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from evaluation.brier import decomposition
from evaluation.confusion import Confusion, confusions
from evaluation.discrimination import Estimate
from evaluation.measures import MERGED, NO_OTHER_CANCERS, WITHIN, Scored, discriminations
from evaluation.operating import WANTED, threshold_for
from evaluation.reliability import reliability
from evaluation.strata import other_cancers, share_of_pairs

_GROUPS, _DELONG, _ROBUST = "bootstrap over groups", "DeLong", "Wald, robust to groups"


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure; bounds that are NaN do not exist."""

    about: str
    """discrimination, operating point or calibration."""
    name: str
    """What it is."""
    part: str
    """On which rows."""
    value: float
    """The figure; NaN where the data do not determine it."""
    low: float = math.nan
    """Lower end of its 95 % interval."""
    high: float = math.nan
    """Upper end of it."""
    interval: str = ""
    """What the interval is from."""


def summary(scored: Scored, *, draws: int = 2000, seed: int = 0) -> tuple[Figure, ...]:
    """All figures; calibration only where the scores are 0 to 1."""
    found = [*_discrimination(scored, draws, seed), *_operating(scored, draws, seed)]
    if not why_no_probability(scored):
        found += _calibration(scored, draws, seed)
    return tuple(found)


def why_no_probability(scored: Scored) -> str:
    """Why the scores cannot be probabilities; empty if they can."""
    low, high = float(scored.score.min()), float(scored.score.max())
    if low >= 0 and high <= 1:
        return ""
    return f"the scores run from {low:.4g} to {high:.4g} and so are no probabilities, which are 0 to 1"


def _estimate(about: str, name: str, part: str, found: Estimate, interval: str = _GROUPS) -> Figure:
    return Figure(
        about=about, name=name, part=part, value=found.value, low=found.low, high=found.high, interval=interval
    )


def _discrimination(scored: Scored, draws: int, seed: int) -> Iterator[Figure]:
    about = "discrimination"
    for each in discriminations(scored, draws=draws, seed=seed):
        if each.part != WITHIN:
            yield Figure(about=about, name="rows", part=each.part, value=each.rows)
            yield Figure(about=about, name="positives", part=each.part, value=each.positives)
        if each.delong:
            yield _estimate(about, "AUC", each.part, each.delong, _DELONG)
        yield _estimate(about, "AUC", each.part, each.auc)
        if each.partial_auc and each.average_precision:
            yield _estimate(about, "partial AUC", each.part, each.partial_auc)
            yield _estimate(about, "average precision", each.part, each.average_precision)
            yield Figure(about=about, name="prevalence", part=each.part, value=each.positives / each.rows)
    sources = np.unique(scored.source)
    if len(sources) > 1:
        within = sum(share_of_pairs(scored.target, scored.source, each, each) for each in sources)
        yield Figure(about=about, name="share of pairs that mix sources", part=MERGED, value=1 - within)
    if {"2019", "2020"} <= set(sources.tolist()):
        mixed = share_of_pairs(scored.target, scored.source, "2019", "2020")
        yield Figure(about=about, name="share of pairs of 2019 melanoma, 2020 benign", part=MERGED, value=mixed)


def _operating(scored: Scored, draws: int, seed: int) -> Iterator[Figure]:
    about, target, score = "operating point", scored.target, scored.score
    if not target.any() or target.all():
        return
    thresholds = [threshold_for(target, score, wanted) for wanted in WANTED]
    points = confusions(target, score, thresholds, scored.group, draws=draws, seed=seed)
    kept: tuple[Confusion, ...] = ()
    if scored.diagnosis is not None:
        apart = np.where(other_cancers(target, scored.diagnosis), np.nan, score)
        kept = confusions(target, apart, thresholds, scored.group, draws=draws, seed=seed)
    for number, (wanted, point) in enumerate(zip(WANTED, points, strict=True)):
        part = f"{wanted:.0%} sensitivity"
        yield Figure(about=about, name="threshold", part=part, value=point.threshold)
        for name in ("sensitivity", "specificity", "ppv", "npv"):
            yield _estimate(about, name, part, getattr(point, name))
        if kept:
            yield _estimate(about, f"specificity {NO_OTHER_CANCERS}", part, kept[number].specificity)


def _calibration(scored: Scored, draws: int, seed: int) -> Iterator[Figure]:
    about = "calibration"
    if not scored.target.any() or scored.target.all():
        return
    found = reliability(scored.target, scored.score, scored.group, draws=draws, seed=seed)
    parts = decomposition(scored.target, scored.score)
    yield Figure(about=about, name="Brier score", part=MERGED, value=found.brier)
    for name in ("reliability", "resolution", "uncertainty", "within"):
        yield Figure(about=about, name=f"Brier score, {name}", part=MERGED, value=getattr(parts, name))
    yield _estimate(about, "Brier skill", MERGED, found.skill)
    yield _estimate(about, "slope", MERGED, found.slope, _ROBUST)
    yield _estimate(about, "intercept", MERGED, found.intercept, _ROBUST)
    yield _estimate(about, "intercept at slope 1", MERGED, found.in_the_large, _ROBUST)
    yield Figure(about=about, name="ECE", part=MERGED, value=found.ece)
    yield Figure(about=about, name="ECE if perfectly calibrated, mean", part=MERGED, value=found.ece_if_perfect)
    yield Figure(about=about, name="ECE if perfectly calibrated, 95 %", part=MERGED, value=found.ece_limit)
