"""AUCs of the models beside that of the ensemble, and what each way of combining gains over something simpler."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from configs.schema import Combine
from evaluation.bootstrap import auc_statistic, bootstrapped, percentile_interval, standard_error
from evaluation.discrimination import SOURCES, Bools, Estimate, Floats, auc, auc_interval, paired_auc_difference
from evaluation.table import OutOfFold

PARTS = ("merged", "2020", "2019")
"""Rows that an AUC is given for: all, and those of one source."""
_SEEN = 1.96 + 0.84  # standard errors of a difference that is seen in 80 % of data sets


@dataclass(frozen=True, kw_only=True)
class Row:
    """One model, or the ensemble, on the rows that it covers."""

    name: str
    """Name of the model; "ensemble" in the last row."""
    rows: int
    """Out-of-fold rows that it predicts."""
    positives: int
    """Melanomas among them."""
    delong: dict[str, Estimate]
    """AUC with DeLong's interval, for each of PARTS; NaN where a class is missing."""
    over_groups: dict[str, Estimate]
    """The same AUC with the interval of the bootstrap over groups."""


@dataclass(frozen=True, kw_only=True)
class Gain:
    """Difference of AUC between a way of combining and something simpler, on the same rows."""

    way: str
    """mean, rank or weighted, the latter with the weights of the other folds."""
    over: str
    """"mean", or "best": the best single model, which is chosen on these same rows and so is flattered."""
    difference: Estimate
    """AUC difference, with its interval over groups; both see the same draws."""
    tie: bool
    """Whether the interval holds 0."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A model minus the ensemble, on the rows of one part that the model covers."""

    name: str
    """Name of the model."""
    part: str
    """One of PARTS."""
    rows: int
    """Rows that are compared."""
    positives: int
    """Melanomas among them."""
    delong: Estimate
    """AUC difference, paired, with DeLong's interval; NaN where a class is missing."""
    over_groups: Estimate
    """The same with the interval of the bootstrap over groups."""
    noise: float
    """Standard error over groups of the ensemble's AUC on these rows."""
    detectable: float
    """Smallest true difference of these two that would be seen in four of five such data sets."""

    @property
    def tie(self) -> bool:
        """Whether the interval over groups holds 0, or there is none."""
        return not (self.over_groups.low > 0 or self.over_groups.high < 0)


def best_model(oof: OutOfFold) -> str:
    """Name of the model with the highest AUC, among those that cover the most rows."""
    covered = (~np.isnan(oof.scores)).sum(axis=1)
    aucs = [
        _auc(oof.target, score) if rows == covered.max() else -1
        for score, rows in zip(oof.scores, covered, strict=True)
    ]
    return oof.models[int(np.nan_to_num(aucs).argmax())]


def parts_of(oof: OutOfFold) -> dict[str, Bools]:
    """The rows [N] of each of PARTS, as masks."""
    every = np.ones(len(oof.key), dtype=np.bool_)
    return {part: oof.source == int(part) if part in SOURCES else every for part in PARTS}


def compare(
    oof: OutOfFold, raw: Floats, ways: Mapping[Combine, Floats], *, draws: int = 1000, seed: int = 0
) -> tuple[tuple[Row, ...], tuple[Gain, ...]]:
    """A row for each model and for the ensemble's score `raw` [N], and the gain of each of `ways` [N].

    There are no gains with a single model. All intervals over groups come from the same draws.
    """
    systems = list(zip((*oof.models, "ensemble"), (*oof.scores, raw), strict=True))
    tabled = {
        (str(number), part): np.where(rows, score, np.nan)
        for number, (_, score) in enumerate(systems)
        for part, rows in parts_of(oof).items()
    }
    paired = _paired(oof, ways) if len(oof.models) > 1 else {}
    columns = tabled | paired
    statistics = [auc_statistic(oof.target, column, oof.group) for column in columns.values()]
    drawn = dict(zip(columns, bootstrapped(statistics, oof.group, draws=draws, seed=seed).T, strict=True))
    table = tuple(
        _row(oof, name, score, {part: (tabled[str(number), part], drawn[str(number), part]) for part in PARTS})
        for number, (name, score) in enumerate(systems)
    )
    gains = []
    for way, over in paired:
        if way != over:
            value = _auc(oof.target, paired[way, over]) - _auc(oof.target, paired[over, over])
            found = percentile_interval(value, drawn[way, over] - drawn[over, over])
            gains.append(Gain(way=way, over=over, difference=found, tie=not (found.low > 0 or found.high < 0)))
    return table, tuple(gains)


def against_ensemble(oof: OutOfFold, raw: Floats, *, draws: int = 1000, seed: int = 0) -> tuple[Difference, ...]:
    """Each model minus the ensemble's score `raw` [N], for each of PARTS with both classes.

    What can be told: a difference of 2.8 standard errors is beyond 1.96 of them with a probability of 80 % (Cohen,
    Statistical Power Analysis for the Behavioral Sciences, 1988). Two AUCs of the same rows share most of their noise,
    so that smaller differences can be told than between AUCs of different rows.
    """
    compared = []
    for name, score in zip(oof.models, oof.scores, strict=True):
        for part, rows in parts_of(oof).items():
            known = rows & ~np.isnan(score)
            if oof.target[known].any() and not oof.target[known].all():
                compared.append((name, part, score, known))
    columns = [np.where(known, each, np.nan) for _, _, score, known in compared for each in (score, raw)]
    statistics = [auc_statistic(oof.target, column, oof.group) for column in columns]
    drawn = bootstrapped(statistics, oof.group, draws=draws, seed=seed).reshape(draws, len(compared), 2)
    found = []
    for (name, part, score, known), each in zip(compared, np.moveaxis(drawn, 1, 0), strict=True):
        delong = paired_auc_difference(oof.target[known], score[known], raw[known])
        apart = each[:, 0] - each[:, 1]
        found.append(
            Difference(
                name=name,
                part=part,
                rows=int(known.sum()),
                positives=int(oof.target[known].sum()),
                delong=delong,
                over_groups=percentile_interval(delong.value, apart),
                noise=standard_error(each[:, 1]),
                detectable=_SEEN * standard_error(apart),
            )
        )
    return tuple(found)


def _paired(oof: OutOfFold, ways: Mapping[Combine, Floats]) -> dict[tuple[str, str], Floats]:
    """Scores [N] of each way on the rows of what it is held against, and of the latter, by (which, against what)."""
    best = oof.scores[oof.models.index(best_model(oof))]
    against_best: dict[tuple[str, str], Floats] = {
        (way, "best"): np.where(np.isnan(best), np.nan, score) for way, score in ways.items()
    }
    return {("best", "best"): best, **against_best, **{(way, "mean"): score for way, score in ways.items()}}


def _row(oof: OutOfFold, name: str, score: Floats, parts: Mapping[str, tuple[Floats, Floats]]) -> Row:
    """`parts`: the scores [N], NaN outside the part, and the AUCs of its draws."""
    known = ~np.isnan(score)
    delong = {part: _delong(oof.target, column) for part, (column, _) in parts.items()}
    return Row(
        name=name,
        rows=int(known.sum()),
        positives=int(oof.target[known].sum()),
        delong=delong,
        over_groups={part: percentile_interval(delong[part].value, drawn) for part, (_, drawn) in parts.items()},
    )


def _auc(target: Bools, score: Floats) -> float:
    known = ~np.isnan(score)
    return auc(target[known], score[known])


def _delong(target: Bools, score: Floats) -> Estimate:
    known = ~np.isnan(score)
    return auc_interval(target[known], score[known])
