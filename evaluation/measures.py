"""Discrimination of one score on every part of the rows that it should be given for, and its curves with bands."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evaluation.bootstrap import estimated
from evaluation.discrimination import Bools, Estimate, Floats, auc_interval
from evaluation.ranking import (
    Ranking,
    auc_of,
    average_precision_of,
    partial_auc_of,
    precision_at,
    sensitivity_at,
)
from evaluation.strata import lesion_level, other_cancers, stratified_auc_of
from evaluation.table import Strings, Whole

MERGED, WITHIN, NO_OTHER_CANCERS, LESIONS = "merged", "within sources", "without BCC, SCC, AK", "by lesion"
GRID = np.linspace(0, 1, 101)
"""False-alarm rates, or sensitivities, at which the curves are given."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Scored:
    """N samples and one score of each, higher being more suspicious; it need not be a probability."""

    target: Bools
    """True for melanoma [N]."""
    score: Floats
    """Any real numbers [N]."""
    group: Whole
    """What must be drawn together [N]."""
    source: Strings
    """Any labels [N]; all the same where they are not known."""
    diagnosis: Strings | None = None
    """As the tables spell it [N]."""
    lesion: NDArray[np.object_] | None = None
    """Lesion ids [N], None or "" where there is none."""


@dataclass(frozen=True, kw_only=True)
class Discrimination:
    """How one score orders a part of the rows. Intervals are over groups, but for DeLong's."""

    part: str
    """MERGED, the name of a source, WITHIN, NO_OTHER_CANCERS or LESIONS."""
    rows: int
    """Images; lesions in LESIONS."""
    positives: int
    """Melanomas among them; the prevalence is the average precision of a score without skill."""
    delong: Estimate | None
    """AUC with DeLong's interval, for samples taken as independent; None within sources."""
    auc: Estimate
    """AUC."""
    partial_auc: Estimate | None = None
    """Area above 80 % sensitivity, 0 to 0.2, as ISIC 2024 scores it; no skill gives 0.02."""
    average_precision: Estimate | None = None
    """Average precision."""


def discriminations(scored: Scored, *, draws: int = 1000, seed: int = 0) -> tuple[Discrimination, ...]:
    """Of all rows, of each source, within sources, without other cancers and by lesion, as far as they differ."""
    parts = list(_parts(scored))
    rankings = [Ranking(target, score, scored.group) for _, target, score in parts]
    sources = set(np.unique(scored.source).tolist())

    def figures(times: Floats) -> Floats:
        counted = [ranking.counts(times) for ranking in rankings]
        found = [of(counts) for counts in counted for of in (auc_of, partial_auc_of, average_precision_of)]
        of_sources = [counts for counts, part in zip(counted, parts, strict=True) if part[0] in sources]
        return np.column_stack([*found, *([stratified_auc_of(of_sources)] if of_sources else [])])

    estimates, _ = estimated([figures], scored.group, draws=draws, seed=seed)
    found = [_part(*part, *estimates[3 * number : 3 * number + 3]) for number, part in enumerate(parts)]
    if len(estimates) > 3 * len(parts):
        rows, positives = len(scored.target), int(scored.target.sum())
        within = Discrimination(part=WITHIN, rows=rows, positives=positives, delong=None, auc=estimates[-1])
        found.insert(1 + len(sources), within)
    return tuple(found)


def _part(
    name: str, target: Bools, score: Floats, area: Estimate, partial: Estimate, precision: Estimate
) -> Discrimination:
    known = ~np.isnan(score)
    return Discrimination(
        part=name,
        rows=int(known.sum()),
        positives=int(target[known].sum()),
        delong=auc_interval(target[known], score[known]),
        auc=area,
        partial_auc=partial,
        average_precision=precision,
    )


def _parts(scored: Scored) -> Iterator[tuple[str, Bools, Floats]]:
    """Name, target [N] and score [N] of each part, the score being NaN outside it."""
    target, score = scored.target, scored.score
    yield MERGED, target, score
    sources = np.unique(scored.source)[::-1]  # 2020 in front
    if len(sources) > 1:
        for source in sources:
            yield str(source), target, np.where(scored.source == source, score, np.nan)
    if scored.diagnosis is not None:
        others = other_cancers(target, scored.diagnosis)
        if others.any():
            yield NO_OTHER_CANCERS, target, np.where(others, np.nan, score)
    if scored.lesion is not None:
        of_lesion, mean = lesion_level(target, score, scored.lesion)
        if np.isnan(mean).any():
            yield LESIONS, of_lesion, mean


@dataclass(frozen=True, kw_only=True, eq=False)
class Curves:
    """ROC and precision-recall curves at GRID, each [3, 101]: value, and the ends of a pointwise 95 % band."""

    sensitivity: Floats
    """At each false-alarm rate."""
    precision: Floats
    """At each sensitivity: that of the highest threshold which reaches it."""


def curves(scored: Scored, *, draws: int = 1000, seed: int = 0) -> Curves:
    """Both curves over all rows, the bands over groups; NaN without both classes."""
    ranking = Ranking(scored.target, scored.score, scored.group)

    def figures(times: Floats) -> Floats:
        counts = ranking.counts(times)
        return np.concatenate([sensitivity_at(counts, GRID), precision_at(counts, GRID)], axis=1)

    estimates, _ = estimated([figures], scored.group, draws=draws, seed=seed)
    table = np.array([(each.value, each.low, each.high) for each in estimates]).T
    return Curves(sensitivity=table[:, : len(GRID)], precision=table[:, len(GRID) :])
