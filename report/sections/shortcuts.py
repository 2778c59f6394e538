"""Shortcuts in the tables: what scores without a picture, how much of the ensemble's AUC the source carries, and what
is left of it on a source that was not trained on."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from configs.colours import COLOURS, MUTED
from evaluation.discrimination import SOURCES, Bools, Estimate
from evaluation.shortcuts import PARTS, Shortcut, SourceShare, facts_of, shortcuts, source_share
from evaluation.table import obstacle
from report.case import Case
from report.compared import LEAST, Comparison, comparisons, not_measured, table_of
from report.page import Cell, Part, Picture, Section, Table
from report.style import finish, panels

_MERGED, _WITHIN = "all pairs", "pairs of one source"
_TITLES = {"merged": _MERGED, "2020": "2020", "2019": "2019", "within": _WITHIN}


def section(case: Case) -> Section:
    """The shortcut audit of the tables."""
    oof = case.judgement.oof
    melanomas = {part: int(oof.target[rows].sum()) for part, rows in _rows(oof.source).items()}
    share = source_share(case.judgement.raw, oof.target, oof.fold, oof.group, oof.source)
    reason = obstacle(oof.target, oof.fold)
    found: Sequence[Shortcut] = ()
    parts: list[Part] = [f"Scores without a picture: not measured, since {reason}."] if reason else []
    if not reason:
        found = shortcuts(facts_of(case.judged), oof.target, oof.fold, oof.group, oof.source)
        parts.append(_picture(found, share, case, melanomas))
    elsewhere = [*comparisons(case, "source"), *comparisons(case, "subsource")]
    if elsewhere:
        parts.append(_elsewhere_picture(elsewhere))
    parts.append(_explained(share))
    if found:
        parts.append(_table(found, melanomas))
    parts.append(_share_table(case, share))
    parts.append(table_of("other_sources", _ELSEWHERE, elsewhere) if elsewhere else not_measured(case, "source"))
    said = _verdict(found, share)
    return Section(title="Shortcuts in the tables", lead=_lead(found, said), parts=parts, verdict=said)


_ELSEWHERE = (
    "The ensemble on a source or sub-source that none of its training images came from, beside the folds of this "
    "report, on the same images. What is lost cannot be relied on in a clinic that was not trained on; fewer training "
    "images are a part of the loss."
)


def _rows(source: Any) -> dict[str, Bools]:
    """The rows that each of PARTS is about."""
    every = np.ones(len(source), dtype=np.bool_)
    return {part: source == int(part) if part.isdigit() else every for part in PARTS}


def _verdict(found: Sequence[Shortcut], share: SourceShare) -> str:
    """Source alone, the ensemble within sources, and what of it is the source."""
    alone = [one.auc["merged"].value for one in found if one.name == "source"]
    if not np.isfinite(share.between):
        return "All judged images are of one source: nothing of the AUC is owed to telling sources apart."
    said = f"Source alone scores {max(alone):.3f}; " if alone else ""
    owed = f"{_percent(share.share)} of its merged AUC above chance is the source."
    if not share.share.low > 0:
        owed = f"nothing of its merged AUC above chance is shown to be the source ({_percent(share.share)})."
    within = f"within sources the ensemble scores {_text(share.within)}, merged {share.merged.value:.3f}"
    return f"{said}{within}: {owed}"


def _lead(found: Sequence[Shortcut], verdict: str) -> str:
    patient = [one for one in found if one.name == "age, sex, site"]
    if not patient:
        return verdict
    best = max(patient, key=lambda one: np.nan_to_num(one.auc["merged"].value))
    return f"{verdict} Age, sex and site score {_text(best.auc['merged'])} without a picture ({best.way})."


def _explained(share: SourceShare) -> str:
    if not np.isfinite(share.between):
        return "There is one source only, so that the merged AUC and the AUC within sources are the same."
    told = share.gain_if_told
    knows = (
        "telling it adds nothing that can be measured" if told.low <= 0 else "it does not yet know all of the source"
    )
    across = 1 - share.pairs_within
    return (
        f"Of all pairs of a melanoma and another image, {across:.0%} are of two sources; the ensemble puts "
        f"{share.between:.1%} of these in the right order, and {share.within.value:.1%} of the pairs of one source "
        f"(merged AUC = {share.pairs_within:.3f} x {share.within.value:.3f} + {across:.3f} x {share.between:.3f}). The "
        f"share of the source is 1 - (within - 0.5) / (merged - 0.5) = {_percent(share.share)}. Told the source as "
        f"well, the AUC changes by {_signed(told)}: {knows}."
    )


def _picture(found: Sequence[Shortcut], share: SourceShare, case: Case, melanomas: dict[str, int]) -> Picture:
    names = list(dict.fromkeys(one.name for one in found))
    figure, (axis,) = panels(1, width=5.0, height=0.45 * len(names) + 1.9)
    ensemble = {row.name: row.over_groups for row in case.judgement.table}["ensemble"]
    lines = [("the ensemble", {**ensemble, "within": share.within})]
    lines += [(one.name, one.auc) for name in names for one in found if one.name == name and one.way == "boosted"]
    for place, (_, aucs) in enumerate(reversed(lines)):
        for number, part in enumerate(("merged", "2020", "2019")):
            if melanomas[part] >= LEAST and np.isfinite(aucs[part].value):
                _dot(
                    axis, aucs[part], place + 0.22 * (1 - number), COLOURS[number], _TITLES[part] if not place else None
                )
    if not any(melanomas[part] >= LEAST for part in ("merged", *SOURCES)):
        axis.text(0.5, 0.5, f"fewer than {LEAST} melanomas: too few", transform=axis.transAxes, ha="center", fontsize=9)
    axis.axvline(0.5, color=MUTED, linewidth=1)
    axis.set_yticks(range(len(lines)), [name for name, _ in reversed(lines)])
    _legend(axis)
    finish(axis, "", "AUC, with 95 % interval (0.5 is chance)")
    return Picture(
        name="shortcut_audit",
        figure=figure,
        caption="What can be scored without looking at a picture, under the same folds (boosted trees), and the "
        "ensemble on top. A fact that scores over all pairs but not within a year only tells the years apart; one that "
        "scores within a year as well is a shortcut there too, which a model that sees it may take.",
    )


def _legend(axis: Any) -> None:
    """Above the panel, where anything was drawn."""
    if axis.get_legend_handles_labels()[0]:
        axis.legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=3)


def _dot(axis: Any, estimate: Estimate, y: float, colour: str, label: str | None) -> None:
    axis.plot([estimate.low, estimate.high], [y, y], color=colour, linewidth=1.6)
    axis.plot([estimate.value], [y], marker="o", markersize=4.5, color=colour, linestyle="", label=label)


def _table(found: Sequence[Shortcut], melanomas: dict[str, int]) -> Table:
    rows: list[dict[str, Cell]] = []
    for one in found:
        aucs: dict[str, Cell] = {_TITLES[part]: _cell(one.auc[part], melanomas[part]) for part in PARTS}
        rows.append({"scored by": one.name, "model": one.way, **aucs})
    return Table(
        name="shortcuts",
        caption="AUC of scores that see no picture: logistic regression (numbers in 20 bins) and boosted trees, fitted "
        "on the other folds; pairs are of one fold, intervals over groups in closed form. What is missing means which "
        "of age, sex and site are; images of the patient are counted over all splits.",
        rows=rows,
    )


def _share_table(case: Case, ensemble: SourceShare) -> Table:
    oof = case.judgement.oof
    shares = {"ensemble": ensemble}
    for model, score in zip(oof.models, oof.scores, strict=True):
        known = ~np.isnan(score)
        target, fold, group, source = (oof.target[known], oof.fold[known], oof.group[known], oof.source[known])
        shares[model] = source_share(score[known], target, fold, group, source)
    rows: list[dict[str, Cell]] = [
        {
            "score": name,
            _MERGED: each.merged,
            _WITHIN: each.within,
            "pairs of two sources": each.between,
            "share of the source": each.share,
            "gain if told the source": each.gain_if_told,
        }
        for name, each in shares.items()
    ]
    return Table(
        name="source_share",
        caption="How much of each AUC is owed to the source: 1 - (within - 0.5) / (merged - 0.5). Compare models by "
        "the column of one source, which no knowledge of the source can raise.",
        rows=rows,
    )


def _elsewhere_picture(found: Iterable[Comparison]) -> Picture:
    shown = [one for one in found if one.melanomas >= LEAST]
    figure: Figure
    figure, (axis,) = panels(1, width=5.0, height=0.5 * max(len(shown), 1) + 1.7)
    for place, one in enumerate(reversed(shown)):
        _dot(axis, one.here, place + 0.12, COLOURS[0], "source trained on" if not place else None)
        _dot(axis, one.there, place - 0.12, COLOURS[1], "source not trained on" if not place else None)
    axis.set_yticks(range(len(shown)), [f"{one.rows}\n({one.melanomas:,} melanomas)" for one in reversed(shown)])
    axis.set_ylim(-0.5, len(shown) - 0.5 if shown else 0.5)
    _legend(axis)
    finish(axis, "", "AUC, with 95 % interval")
    return Picture(
        name="other_sources",
        figure=figure,
        caption=_ELSEWHERE + f" Sources with fewer than {LEAST} melanomas are left out.",
    )


def _cell(estimate: Estimate, melanomas: int) -> Cell:
    """The figure, where there are melanomas enough to mean something."""
    return estimate if melanomas >= LEAST else "too few"


def _text(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"


def _signed(estimate: Estimate) -> str:
    return f"{estimate.value:+.3f} ({estimate.low:+.3f} to {estimate.high:+.3f})"


def _percent(estimate: Estimate) -> str:
    return f"{estimate.value:.0%} ({estimate.low:.0%} to {estimate.high:.0%})"
