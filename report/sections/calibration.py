"""Whether a probability means what it says, and whether acting on it is worth it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from configs.colours import COLOURS, INK, MUTED
from evaluation.brier import decomposition
from evaluation.decision import DecisionCurve, decision_curve
from evaluation.discrimination import Bools, Estimate, Floats
from evaluation.reliability import Bin, Reliability, reliability, reliability_bins
from evaluation.subgroups import LEAST, MISSING, age_bands
from report.case import Case
from report.page import Cell, Picture, Section, Table
from report.style import finish, panels
from report.words import TOO_FEW, few, too_few, written

_SHOWN = (0.02, 0.05, 0.10, 0.20, 0.30)


def section(case: Case) -> Section:
    """The chapter on calibration."""
    oof, judgement = case.judgement.oof, case.judgement
    scores = {"before": judgement.raw}
    if judgement.calibrated is not None:
        scores["after"] = judgement.calibrated
    bins = {when: reliability_bins(oof.target, score, oof.group) for when, score in scores.items()}
    curve = decision_curve(oof.target, case.probability, oof.group, draws=case.config.draws, seed=case.config.seed)
    found = (judgement.after or judgement.before)["merged"]
    return Section(
        title="Calibration",
        lead=_lead(case, found, curve),
        parts=[
            _diagram(bins, found),
            _decision_picture(curve),
            _measures_table(case),
            _brier_table(oof.target, scores),
            _groups_table(case),
            _decision_table(curve),
            _bins_table(bins),
        ],
        verdict=too_few(found.samples, found.positives)
        if few(found.samples, found.positives)
        else (
            f"calibration slope {written(found.slope, 2)}, intercept at slope 1 {written(found.in_the_large, 2)}; ECE "
            f"{found.ece:.3f}, where a perfect model shows {found.ece_if_perfect:.3f}; Brier skill "
            f"{written(found.skill, 2)}"
        ),
    )


def _lead(case: Case, found: Reliability, curve: DecisionCurve) -> str:
    if few(found.samples, found.positives):
        return too_few(found.samples, found.positives)
    what = "the calibrated probabilities, each fitted on the other folds,"
    if case.judgement.calibrated is None:
        what = f"the scores, which could not be calibrated ({case.judgement.not_cross_fitted}),"
    beyond = "no more than" if found.ece <= found.ece_limit else "more than"
    return (
        f"On the merged rows {what} are off by {found.ece:.3f} on average (ECE), {beyond} chance alone explains (at "
        f"most {found.ece_limit:.3f}). Their slope is {written(found.slope, 2)}, where 1 is right. {_useful(curve)}"
    )


def _useful(curve: DecisionCurve) -> str:
    better = curve.thresholds[curve.gain[1] > 0]
    tried = f"thresholds of {curve.thresholds[0]:.0%} to {curve.thresholds[-1]:.0%}"
    if not len(better):
        return f"At no {tried} is deciding by them shown to be better than treating all or none."
    return (
        f"Of {tried}, deciding by them is shown to be better than treating all or none at {len(better)} of "
        f"{len(curve.thresholds)}, from {better[0]:.0%} to {better[-1]:.0%}."
    )


def _diagram(bins: Mapping[str, Sequence[Bin]], found: Reliability) -> Picture:
    figure, axes = panels(len(bins), width=3.6)
    for axis, (when, each), colour in zip(axes, bins.items(), (COLOURS[1], COLOURS[0]), strict=False):
        predicted = np.array([one.predicted for one in each])
        observed = np.array([one.observed.value for one in each])
        ends = np.array([[one.observed.low, one.observed.high] for one in each]).T
        limit = min(1.0, 1.05 * max(predicted.max(), ends.max()))
        axis.plot([0, limit], [0, limit], color=MUTED, linewidth=0.8)
        axis.vlines(predicted, *ends, color=colour, linewidth=1.5)
        axis.plot(predicted, observed, "o", color=colour, markersize=4)
        axis.set_xlim(0, limit)
        axis.set_ylim(0, limit)
        finish(axis, f"{when} calibration", "mean probability", "share of melanomas" if axis is axes[0] else "")
    return Picture(
        name="reliability_diagram",
        figure=figure,
        caption=(
            f"Share of melanomas in ten bins of equal count, by their mean probability, with 95 % intervals that count "
            f"a patient or lesion once. On the line, probabilities are right; below it, they are too high. The last "
            f"panel has slope {written(found.slope, 2)} and ECE {found.ece:.3f}, where a perfect model shows "
            f"{found.ece_if_perfect:.3f}."
        ),
    )


def _decision_picture(curve: DecisionCurve) -> Picture:
    figure, (axis,) = panels(1)
    axis.fill_between(curve.thresholds, *curve.model[1:], color=COLOURS[0], alpha=0.2, linewidth=0)
    axis.plot(curve.thresholds, curve.model[0], color=COLOURS[0], label="ensemble")
    axis.plot(curve.thresholds, curve.treat_all, color=COLOURS[1], linestyle="--", label="treat all")
    axis.axhline(0, color=INK, linewidth=1, label="treat none")
    top = max(float(curve.model[2].max()), 1e-3)
    axis.set_ylim(-0.25 * top, 1.1 * top)
    axis.xaxis.set_major_formatter(_percent)
    finish(axis, "decision curve", "probability from which a lesion is removed", "net benefit per image")
    axis.legend(frameon=False, fontsize=8)
    return Picture(
        name="decision_curve",
        figure=figure,
        caption=(
            "Net benefit (melanomas found per image, less false alarms at the price that the threshold sets) with a "
            "pointwise 95 % band over patients and lesions. Deciding by the ensemble is of use where its curve lies "
            f"above both lines. {_useful(curve)} It holds for this data's prevalence, which is far above a clinic's."
        ),
    )


def _percent(value: float, _: Any) -> str:
    return f"{value:.0%}"


def _measures_table(case: Case) -> Table:
    judged = [("before", case.judgement.before), ("after", case.judgement.after)]
    return Table(
        name="calibration",
        caption=(
            "Calibration before and after, with 95 % intervals that respect patients and lesions. Skill is the share "
            "of the prevalence's Brier score that is saved; an intercept at slope 1 above 0 means probabilities too "
            "low. An ECE is never 0: compare it with what a perfect model shows here, on average and in 95 % of cases."
        ),
        rows=[_measures(when, part, found) for when, parts in judged for part, found in parts.items()],
    )


def _measures(when: str, part: str, found: Reliability) -> Mapping[str, Cell]:
    figures: dict[str, Cell] = {
        "Brier score": found.brier,
        "skill": found.skill,
        "slope": found.slope,
        "intercept": found.intercept,
        "intercept at slope 1": found.in_the_large,
        "ECE": found.ece,
        "ECE if perfect": found.ece_if_perfect,
        "ECE if perfect, 95 %": found.ece_limit,
    }
    rows: dict[str, Cell] = {
        "calibration": when,
        "rows of": part,
        "images": found.samples,
        "melanomas": found.positives,
    }
    return rows | (dict.fromkeys(figures, TOO_FEW) if few(found.samples, found.positives) else figures)


def _brier_table(target: Bools, scores: Mapping[str, Floats]) -> Table:
    return Table(
        name="brier_decomposition",
        caption=(
            "Where the Brier score comes from: brier = reliability - resolution + uncertainty + within. Calibration "
            "should lower reliability (the error of the probabilities) and keep resolution (what they tell apart)."
        ),
        rows=[{"calibration": when, **asdict(decomposition(target, score))} for when, score in scores.items()],
    )


def _groups_table(case: Case) -> Table:
    judged, oof = case.judged, case.judgement.oof
    families = {
        "age": age_bands(judged["age"]),
        "sex": judged["sex"].fillna(MISSING).to_numpy(dtype=str),
    }
    rows: list[Mapping[str, Cell]] = []
    for family, labels in families.items():
        for name in sorted(np.unique(labels), key=lambda each: (each == MISSING, each != "under 30", each)):
            inside = labels == name
            measured = _by_group(oof.target[inside], case.probability[inside], oof.group[inside], case)
            rows.append({"by": family, "group": str(name), **measured})
    return Table(
        name="calibration_by_group",
        caption=(
            f"Calibration of the probabilities by age and sex, with 95 % intervals that respect patients and lesions. "
            f"Observed over expected above 1 means that probabilities are too low for the group. Groups with fewer "
            f"than {LEAST} melanomas, or others, have too few for a figure."
        ),
        rows=rows,
    )


def _by_group(target: Bools, probability: Floats, group: Any, case: Case) -> Mapping[str, Cell]:
    cells: dict[str, Cell] = {"images": len(target), "melanomas": int(target.sum())}
    names = ("observed / expected", "intercept at slope 1", "slope", "ECE", "ECE if perfect", "ECE if perfect, 95 %")
    if few(len(target), int(target.sum())):
        return cells | dict.fromkeys(names, TOO_FEW)
    found = reliability(target, probability, group, draws=case.config.draws, seed=case.config.seed)
    ratio = float(target.sum() / probability.sum())
    values = (ratio, found.in_the_large, found.slope, found.ece, found.ece_if_perfect, found.ece_limit)
    return cells | dict(zip(names, values, strict=True))


def _decision_table(curve: DecisionCurve) -> Table:
    shown = [int(np.abs(curve.thresholds - threshold).argmin()) for threshold in _SHOWN]
    rows: list[Mapping[str, Cell]] = [
        {
            "threshold": f"{curve.thresholds[place]:.0%}",
            "net benefit": _cell(curve.model[:, place]),
            "treat all": float(curve.treat_all[place]),
            "treat none": 0.0,
            "gain over the better of both": _cell(curve.gain[:, place]),
        }
        for place in shown
    ]
    return Table(
        name="net_benefit",
        caption=(
            "Net benefit per image at some thresholds, with 95 % intervals over patients and lesions; a gain whose "
            "interval lies above 0 means that deciding by the probability is better than removing all or none."
        ),
        rows=rows,
    )


def _cell(banded: Floats) -> Cell:
    return Estimate(*(float(value) for value in banded))


def _bins_table(bins: Mapping[str, Sequence[Bin]]) -> Table:
    return Table(
        name="reliability_bins",
        caption="The points of the reliability diagram.",
        rows=[
            {
                "calibration": when,
                "images": each.samples,
                "melanomas": each.positives,
                "patients and lesions": each.groups,
                "mean probability": each.predicted,
                "share of melanomas": each.observed,
            }
            for when, of_when in bins.items()
            for each in of_when
        ],
        folded=True,
    )
