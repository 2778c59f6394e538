"""Does a score serve all patients alike? Each subgroup, and each against the rest, flagged beyond noise only."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import norm

from evaluation.bootstrap import bootstrapped, bootstrapped_sums, percentile_interval, standard_error
from evaluation.discrimination import Bools, Estimate, Floats
from evaluation.ranking import Ranking, auc_of, group_numbers, ratio
from evaluation.reliability import calibration_in_the_large
from evaluation.table import Strings, Whole

LEAST = 50
"""Positives, and negatives, that a subgroup and the rest must have for a figure."""
MISSING = "missing"
AGE_BANDS = ("under 30", "30-44", "45-59", "60-74", "75 and over", MISSING)
_EDGES = (30, 45, 60, 75)
_LEVEL = 0.05


@dataclass(frozen=True, kw_only=True)
class Gap:
    """How far a subgroup is from the rest of the samples in one figure."""

    figure: str
    """auc, sensitivity or observed/expected, the latter as the difference of its logarithms."""
    difference: Estimate
    """The subgroup's minus that of the rest, with a 95 % interval over groups that knows of no other gap."""
    p: float
    """Two-sided, from the difference over its standard error; NaN where that is 0."""
    adjusted: float
    """p as Holm adjusts it for all gaps that are tested together."""

    @property
    def flagged(self) -> bool:
        """Whether it is beyond noise: one such flag or more is seen in 5 % of data sets without any gap."""
        return self.adjusted < _LEVEL


@dataclass(frozen=True, kw_only=True)
class Subgroup:
    """Samples of one kind, such as those of men."""

    family: str
    """What the samples are told apart by, such as sex."""
    name: str
    """Their kind."""
    rows: int
    """How many."""
    positives: int
    """Melanomas among them."""
    few: bool
    """Whether they have fewer than LEAST positives or negatives, so that no figure below can be trusted."""
    auc: Estimate
    """AUC."""
    sensitivity: Estimate
    """At the threshold that is fixed for all."""
    specificity: Estimate
    """Likewise; where melanoma is rare, a right probability gives a low sensitivity and a high specificity."""
    observed_expected: Estimate
    """Positives over the sum of their probabilities: 1 is right, above 1 means that probabilities are too low."""
    in_the_large: Estimate
    """The same in log odds, where 0 is right; Wald's interval, robust to groups."""
    gaps: tuple[Gap, ...]
    """Against the rest; empty where either side has too few."""


def age_bands(age: ArrayLike) -> Strings:
    """The AGE_BANDS of ages in years [N]; NaN is missing."""
    years = np.asarray(age, dtype=np.float64)
    number = np.where(np.isnan(years), len(_EDGES) + 1, np.digitize(years, _EDGES))
    return np.array(AGE_BANDS)[number]


def subgroups(
    target: Bools,
    score: Floats,
    probability: Floats,
    group: Whole,
    families: Mapping[str, Strings],
    threshold: float,
    *,
    draws: int = 1000,
    seed: int = 0,
) -> tuple[Subgroup, ...]:
    """Every kind of every family [N], judged by score [N] at `threshold` and by probability [N].

    A kind that has the very rows of an earlier one is left out, so that nothing is tested twice under two names. All
    figures and differences come from the same draws of whole groups. A gap's test divides the difference by its
    standard error over the draws; Holm's adjustment (Scandinavian Journal of Statistics 6, 1979, 65-70) is over all
    gaps of all families, which holds whatever their dependence.
    """
    rows_of: dict[bytes, tuple[str, str]] = {}
    for family, labels in families.items():
        for name in np.unique(labels):
            rows_of.setdefault((labels == name).tobytes(), (family, str(name)))
    kinds = list(rows_of.values())
    inside = [families[family] == name for family, name in kinds]
    figures, drawn = _all_figures(target, score, probability, group, inside, threshold, draws, seed)
    few = [min(int((rows & target).sum()), int((rows & ~target).sum())) < LEAST for rows in inside]
    few_left = [min(int((~rows & target).sum()), int((~rows & ~target).sum())) < LEAST for rows in inside]
    gaps = [() if few[kind] or few_left[kind] else _gaps(figures[kind], drawn[:, kind]) for kind in range(len(kinds))]
    adjusted = iter(holm([gap.p for each in gaps for gap in each]))
    return tuple(
        Subgroup(
            family=family,
            name=name,
            rows=int(inside[kind].sum()),
            positives=int((target & inside[kind]).sum()),
            few=few[kind],
            auc=percentile_interval(figures[kind, 0, 0], drawn[:, kind, 0, 0]),
            sensitivity=percentile_interval(figures[kind, 0, 1], drawn[:, kind, 0, 1]),
            specificity=percentile_interval(figures[kind, 0, 3], drawn[:, kind, 0, 3]),
            observed_expected=percentile_interval(figures[kind, 0, 2], drawn[:, kind, 0, 2]),
            in_the_large=calibration_in_the_large(target[inside[kind]], probability[inside[kind]], group[inside[kind]]),
            gaps=tuple(Gap(**{**vars(gap), "adjusted": next(adjusted)}) for gap in gaps[kind]),
        )
        for kind, (family, name) in enumerate(kinds)
    )


def _all_figures(
    target: Bools,
    score: Floats,
    probability: Floats,
    group: Whole,
    inside: Sequence[Bools],
    threshold: float,
    draws: int,
    seed: int,
) -> tuple[Floats, Floats]:
    """AUC, sensitivity, O/E and specificity of each kind and of the rest [kinds, 2, 4], and those of every draw."""
    rankings = [Ranking(target, np.where(rows, score, np.nan), group) for kind in inside for rows in (kind, ~kind)]
    spared = ~target & (score < threshold)
    counts = np.stack([target & (score >= threshold), target, probability, spared, ~target], axis=1)
    columns = np.concatenate([counts, *(counts * rows[:, None] for rows in inside)], axis=1)

    def aucs(times: Floats) -> Floats:
        return np.stack([auc_of(ranking.counts(times)) for ranking in rankings], axis=1)

    def together(auc: Floats, sums: Floats) -> Floats:
        whole, kind = sums[:, None, :5], sums[:, 5:].reshape(len(sums), -1, 5)
        hits, positives, expected, spared, negatives = np.moveaxis(np.stack([kind, whole - kind], axis=2), -1, 0)
        shares = [ratio(hits, positives), ratio(positives, expected), ratio(spared, negatives)]
        return np.stack([auc.reshape(positives.shape), *shares], axis=-1)

    once = np.ones((group_numbers(group)[1], 1))
    figures = together(aucs(once), columns.sum(axis=0)[None])[0]
    drawn = together(
        bootstrapped([aucs], group, draws=draws, seed=seed), bootstrapped_sums(columns, group, draws=draws, seed=seed)
    )
    return figures, drawn


def _gaps(figures: Floats, drawn: Floats) -> tuple[Gap, ...]:
    """The gaps of one kind, not adjusted yet, from figures [2, 4] and drawn [draws, 2, 4] of it and the rest."""
    found = []
    for number, figure in enumerate(("auc", "sensitivity", "observed/expected")):
        values, each = figures[:, number], drawn[:, :, number]
        if figure == "observed/expected":
            values, each = np.log(values), np.log(np.where(each > 0, each, np.nan))
        difference, spread = float(values[0] - values[1]), standard_error(each[:, 0] - each[:, 1])
        p = 2 * float(norm.sf(abs(difference) / spread)) if spread > 0 else math.nan
        found.append(
            Gap(
                figure=figure,
                difference=Estimate(difference, difference - 1.96 * spread, difference + 1.96 * spread),
                p=p,
                adjusted=math.nan,
            )
        )
    return tuple(found)


def holm(p: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values; NaN, which is no test, stays NaN and counts for nothing."""
    values = np.array(p, dtype=np.float64)
    order = np.argsort(values)[: int((~np.isnan(values)).sum())]
    factors = len(order) - np.arange(len(order))
    values[order] = np.maximum.accumulate(factors * values[order]).clip(max=1)
    return [float(value) for value in values]
