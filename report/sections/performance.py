"""How well melanomas are told from the rest: AUCs that no shortcut lifts, curves, decisions, models compared."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from configs.colours import COLOURS, INK, MUTED
from evaluation.comparison import Difference, against_ensemble, parts_of
from evaluation.confusion import Confusion, confusions
from evaluation.measures import (
    GRID,
    MERGED,
    WITHIN,
    Curves,
    Discrimination,
    Scored,
    curves,
    discriminations,
)
from evaluation.operating import WANTED
from evaluation.ranking import Ranking, sensitivity_at
from evaluation.strata import other_cancers, share_of_pairs
from report.case import Case
from report.page import Cell, Picture, Section, Table
from report.style import finish, panels
from report.words import TOO_FEW, counted, few, too_few, written

_DECIDING = WANTED.index(0.90)


def section(case: Case) -> Section:
    """The chapter on discrimination."""
    scored = scored_of(case)
    draws, seed = case.config.draws, case.config.seed
    parts = discriminations(scored, draws=draws, seed=seed)
    bands = curves(scored, draws=draws, seed=seed)
    thresholds = case.judgement.fitted.thresholds
    points = confusions(scored.target, scored.score, thresholds, scored.group, draws=draws, seed=seed)
    differences = against_ensemble(case.judgement.oof, case.judgement.raw, draws=draws, seed=seed)
    by_name = {part.part: part for part in parts}
    return Section(
        title="Discrimination",
        lead=_lead(case, scored, by_name, points[_DECIDING]),
        parts=[
            _roc(scored, by_name, bands, points[_DECIDING]),
            _precision_recall(by_name[MERGED], bands, points[_DECIDING]),
            _matrix(points[_DECIDING]),
            _parts_table(parts, draws),
            _points_table(case, scored, points),
            *_model_tables(case, differences),
        ],
        verdict=_verdict(by_name),
    )


def scored_of(case: Case) -> Scored:
    """The ensemble's combined score of the out-of-fold rows, and what is known of them."""
    oof, judged = case.judgement.oof, case.judged
    return Scored(
        target=oof.target,
        score=case.judgement.raw,
        group=oof.group,
        source=oof.source.astype(str),
        diagnosis=judged["diagnosis"].fillna("").to_numpy(dtype=str),
        lesion=judged["lesion"].fillna("").to_numpy(dtype=object),
    )


def _verdict(parts: Mapping[str, Discrimination]) -> str:
    aucs = [
        f"{TOO_FEW if few(parts[name].rows, parts[name].positives) else written(parts[name].auc)} {name}"
        for name in (MERGED, "2020", "2019", WITHIN)
        if name in parts
    ]
    return f"AUC {', '.join(aucs)}; {counted(parts[MERGED].positives, 'melanoma')}"


def _lead(case: Case, scored: Scored, parts: Mapping[str, Discrimination], point: Confusion) -> str:
    merged = parts[MERGED]
    if few(merged.rows, merged.positives):
        return too_few(merged.rows, merged.positives)
    folds = counted(len(np.unique(case.judgement.oof.fold)), "fold")
    text = (
        f"Over {folds}, each image scored by models that were trained without its fold, a melanoma scores above "
        f"another lesion with a probability of {written(parts[MERGED].auc)}. "
    )
    if WITHIN in parts:
        mixed = share_of_pairs(scored.target, scored.source, "2019", "2020")
        text += (
            f"{mixed:.0%} of these pairs set a 2019 melanoma against a 2020 benign lesion, which telling the years "
            f"apart puts in order; among pairs of the same year it is {written(parts[WITHIN].auc)}. "
        )
    return text + (
        f"At the threshold that finds {point.sensitivity.value:.0%} of the melanomas, "
        f"{point.specificity.value:.0%} of the other lesions are spared."
    )


def _roc(scored: Scored, parts: Mapping[str, Discrimination], bands: Curves, point: Confusion) -> Picture:
    figure, (axis,) = panels(1)
    low, high = bands.sensitivity[1:]
    axis.fill_between(GRID, low, high, color=COLOURS[0], alpha=0.2, linewidth=0)
    axis.plot(GRID, bands.sensitivity[0], color=COLOURS[0], label=f"merged: AUC {parts[MERGED].auc.value:.3f}")
    others = [name for name in np.unique(scored.source)[::-1] if name in parts]
    for colour, dashes, name in zip(COLOURS[1:], ("--", ":", "-.", "--", ":"), others, strict=False):
        score = np.where(scored.source == name, scored.score, np.nan)
        ranking = Ranking(scored.target, score, scored.group)
        curve = sensitivity_at(ranking.counts(np.ones((int(scored.group.max()) + 1, 1))), GRID)[0]
        axis.plot(GRID, curve, color=colour, linestyle=dashes, label=f"{name} only: {parts[name].auc.value:.3f}")
    axis.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8)
    axis.plot(1 - point.specificity.value, point.sensitivity.value, "o", color=INK, markersize=5)
    finish(axis, "ROC curve, out of fold", "1 - specificity", "sensitivity")
    axis.legend(frameon=False, fontsize=8, loc="lower right")
    return Picture(
        name="roc_curve",
        figure=figure,
        caption=(
            f"ROC curve of the ensemble, out of fold, with a pointwise 95 % band over patients and lesions: AUC "
            f"{written(parts[MERGED].auc)}. The dot is the operating point: sensitivity {written(point.sensitivity)}, "
            f"specificity {written(point.specificity)}. Read the curves of one year: the merged one is lifted by "
            f"whatever tells the years apart."
        ),
    )


def _precision_recall(merged: Discrimination, bands: Curves, point: Confusion) -> Picture:
    figure, (axis,) = panels(1)
    prevalence = merged.positives / merged.rows
    axis.fill_between(GRID[1:], *bands.precision[1:, 1:], color=COLOURS[0], alpha=0.2, linewidth=0)
    axis.plot(GRID[1:], bands.precision[0, 1:], color=COLOURS[0])
    axis.axhline(prevalence, color=MUTED, linewidth=0.8)
    axis.text(0.99, prevalence + 0.015, f"prevalence {prevalence:.3f}", fontsize=8, color=MUTED, ha="right")
    axis.plot(point.sensitivity.value, point.ppv.value, "o", color=INK, markersize=5)
    precision = merged.average_precision
    assert precision is not None  # only the pairs within sources have none
    finish(axis, f"precision and recall; average precision {precision.value:.3f}", "sensitivity (recall)", "precision")
    axis.set_ylim(0, 1.02)
    return Picture(
        name="precision_recall_curve",
        figure=figure,
        caption=(
            f"Share of melanomas among the lesions called suspicious, by sensitivity, with a pointwise 95 % band over "
            f"patients and lesions. Average precision {written(precision)}, where a score without skill has the "
            f"prevalence, {prevalence:.3f}. Where melanoma is rarer than here, precision is lower."
        ),
    )


def _matrix(point: Confusion) -> Picture:
    counts = np.array([[point.hits, point.misses], [point.alarms, point.spared]])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = Figure(figsize=(4.5, 3.2), layout="constrained")
    axis: Any = figure.subplots()
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for row, column in np.ndindex(2, 2):
        text = f"{counts[row, column]:,}\n{shares[row, column]:.1%}"
        colour = "white" if shares[row, column] > 0.5 else INK
        axis.text(column, row, text, ha="center", va="center", fontsize=11, color=colour)
    axis.set_xticks([0, 1], ["suspicious", "not suspicious"])
    axis.set_yticks([0, 1], ["melanoma", "other"])
    finish(axis, "decisions at the 90 % operating point")
    axis.grid(visible=False)
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0, labelsize=9)
    return Picture(
        name="confusion_matrix",
        figure=figure,
        caption=(
            f"Images by truth and decision at the threshold chosen for 90 % sensitivity, with their share of the row: "
            f"{point.misses:,} melanomas are missed, and {point.alarms:,} other lesions are called suspicious. A share "
            f"of {written(point.ppv)} of those called suspicious are melanomas, at this data's prevalence."
        ),
    )


def _parts_table(parts: Sequence[Discrimination], draws: int) -> Table:
    rows: list[Mapping[str, Cell]] = []
    for part in parts:
        figures: dict[str, Cell] = {
            "AUC, DeLong": part.delong,
            "AUC": part.auc,
            "partial AUC": part.partial_auc,
            "average precision": part.average_precision,
        }
        rows.append(
            {
                "rows of": part.part,
                "images or lesions": part.rows,
                "melanomas": part.positives,
                **(dict.fromkeys(figures, TOO_FEW) if few(part.rows, part.positives) else figures),
                "prevalence": part.positives / part.rows if part.average_precision else None,
            }
        )
    return Table(
        name="discrimination",
        caption=(
            f"AUCs of the ensemble with 95 % intervals: DeLong's takes images as independent, all others draw whole "
            f"patients and lesions ({draws:,} draws) and are the ones to quote. Within sources: pairs of one year, "
            f"which no mark of the year can lift. Without BCC, SCC, AK: false alarms that are cancer or its precursor "
            f"are not counted. By lesion: mean score of a lesion's images. Partial AUC: area above 80 % sensitivity as "
            f"ISIC 2024 scores it, 0.02 without skill and 0.2 at best."
        ),
        rows=rows,
    )


def _points_table(case: Case, scored: Scored, points: Sequence[Confusion]) -> Table:
    diagnosis = scored.diagnosis
    assert diagnosis is not None
    kept = np.where(other_cancers(scored.target, diagnosis), np.nan, scored.score)
    thresholds = [point.threshold for point in points]
    draws, seed = case.config.draws, case.config.seed
    apart = confusions(scored.target, kept, thresholds, scored.group, draws=draws, seed=seed)
    rows: list[Mapping[str, Cell]] = [
        {
            "wanted sensitivity": f"{judged.wanted:.0%}",
            "threshold": point.threshold,
            "sensitivity": point.sensitivity,
            "specificity": point.specificity,
            "specificity without BCC, SCC, AK": without.specificity,
            "PPV": point.ppv,
            "NPV": point.npv,
            "held-out sensitivity": judged.held_out_sensitivity,
            "held-out specificity": judged.held_out_specificity,
        }
        for judged, point, without in zip(case.judgement.operating_points, points, apart, strict=True)
    ]
    return Table(
        name="operating_points",
        caption=(
            "Decisions at three thresholds of the combined score, with 95 % intervals over patients and lesions. The "
            "threshold was chosen on these rows; the held-out columns choose it on the other folds (Wilson's interval) "
            "and are what to expect. PPV and NPV hold for this data's prevalence only."
        ),
        rows=rows,
    )


def _model_tables(case: Case, differences: Sequence[Difference]) -> list[Table]:
    oof = case.judgement.oof
    thin = [part for part, rows in parts_of(oof).items() if few(int(rows.sum()), int(oof.target[rows].sum()))]
    aucs: list[Mapping[str, Cell]] = []
    for row in case.judgement.table:
        cells: dict[str, Cell] = {part: TOO_FEW if part in thin else auc for part, auc in row.over_groups.items()}
        aucs.append({"model": row.name, "images": row.rows, "melanomas": row.positives, **cells})
    tables = [
        Table(
            name="models",
            caption="AUC of each model and of the ensemble on the rows it covers, with 95 % intervals over groups.",
            rows=aucs,
        )
    ]
    if len(oof.models) < 2:
        return tables
    rows: list[Mapping[str, Cell]] = [
        {
            "model": each.name,
            "rows of": each.part,
            "melanomas": each.positives,
            "minus the ensemble, DeLong": each.delong,
            "minus the ensemble": each.over_groups,
            "verdict": _told(each),
            "standard error of one AUC": each.noise,
            "difference that could be told": each.detectable,
        }
        for each in differences
        if not few(each.rows, each.positives)
    ]
    caption = (
        "AUC of each model minus that of the ensemble on the same images, with paired 95 % intervals: DeLong's, and "
        "over patients and lesions. An interval that holds 0 is a tie. The last columns are the noise floor: how far "
        "one AUC moves by the choice of patients, and the true difference that four of five such data sets would show."
    )
    return [*tables, *([Table(name="models_against_ensemble", caption=caption, rows=rows)] if rows else [])]


def _told(each: Difference) -> str:
    if each.tie:
        return "tie"
    return "better" if each.over_groups.value > 0 else "worse"
