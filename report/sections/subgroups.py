"""Whether the ensemble serves all patients alike, and what the tables cannot say about it."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from configs.colours import COLOURS, MUTED
from evaluation.discrimination import Estimate, auc
from evaluation.measures import Scored
from evaluation.operating import threshold_for_specificity
from evaluation.subgroups import AGE_BANDS, LEAST, MISSING, Subgroup, age_bands, subgroups
from evaluation.table import Strings
from report.case import Case
from report.page import Cell, Picture, Section, Table
from report.sections.performance import scored_of
from report.style import finish, panels
from report.words import TOO_FEW, counted, written

_SPECIFICITY = 0.90
CANNOT_SAY = (
    "What these tables cannot say: neither training table has a column for skin type, so nothing here tells how the "
    "ensemble does on dark skin. They name no clinic, camera or ethnicity either, and patients of 2019 are known by "
    "their lesions only. A gap that is not flagged may still exist: it is not beyond the noise of these numbers."
)


def section(case: Case) -> Section:
    """The chapter on subgroups."""
    scored = scored_of(case)
    threshold = threshold_for_specificity(scored.target, scored.score, _SPECIFICITY)
    families = families_of(case.judged)
    found = subgroups(
        scored.target,
        scored.score,
        case.probability,
        scored.group,
        families,
        threshold,
        draws=case.config.draws,
        seed=case.config.seed,
    )
    found = tuple(sorted(found, key=lambda each: _place(each, list(families))))
    return Section(
        title="Subgroups",
        lead=_lead(found),
        parts=[
            _forest(scored, found),
            _sensitivity_forest(scored, threshold, found),
            _calibration_forest(found),
            CANNOT_SAY,
            _subgroups_table(found),
            _gaps_table(found),
        ],
        verdict=_verdict(found),
    )


def families_of(judged: pd.DataFrame) -> dict[str, Strings]:
    """What the out-of-fold rows [N] are told apart by."""
    named = {"sex": "sex", "site": "site", "source": "source", "sub-source": "subsource"}
    labels = {
        family: judged[column].astype(object).fillna(MISSING).astype(str).replace("", MISSING).to_numpy(dtype=str)
        for family, column in named.items()
    }
    return {"sex": labels.pop("sex"), "age": age_bands(judged["age"]), **labels}


def _place(each: Subgroup, families: Sequence[str]) -> tuple[int, int, str]:
    band = AGE_BANDS.index(each.name) if each.family == "age" else len(AGE_BANDS) * (each.name == MISSING)
    return families.index(each.family), band, each.name


def _flags(found: Sequence[Subgroup]) -> list[str]:
    """The gaps beyond noise in words, the surest first."""
    names = {"auc": "AUC", "sensitivity": "sensitivity", "observed/expected": "log observed/expected"}
    flagged = [(gap.p, each, gap) for each in found for gap in each.gaps if gap.flagged]
    return [
        f"{each.family} {each.name}: {names[gap.figure]} {written(gap.difference, 2)}"
        for _, each, gap in sorted(flagged, key=lambda one: one[0])
    ]


def _tested(found: Sequence[Subgroup]) -> int:
    return sum(len(each.gaps) for each in found)


def _lead(found: Sequence[Subgroup]) -> str:
    flags, tested = _flags(found), _tested(found)
    few = sum(each.few for each in found)
    thin = f"{few} of {len(found)} subgroups have fewer than {LEAST} melanomas or others, too few for a figure."
    if not tested:
        return f"No subgroup and its rest are large enough to be compared. {thin}"
    if not flags:
        return f"None of {counted(tested, 'gap')} between a subgroup and the rest is beyond noise. {thin}"
    return f"{len(flags)} of {tested} gaps between a subgroup and the rest are beyond noise: {'; '.join(flags)}. {thin}"


def _verdict(found: Sequence[Subgroup]) -> str:
    flags = _flags(found)
    shown = "; ".join(flags[:3]) + (f"; and {len(flags) - 3} more" if len(flags) > 3 else "")
    text = f"subgroups: {len(flags)} of {_tested(found)} gaps beyond noise"
    return f"{text} ({shown})" if flags else text


def _forest(scored: Scored, found: Sequence[Subgroup]) -> Picture:
    whole = auc(scored.target, scored.score)
    return Picture(
        name="auc_by_subgroup",
        figure=_forest_figure(found, [each.auc for each in found], "auc", whole, "AUC in subgroups (melanomas)"),
        caption=(
            f"AUC within each subgroup with 95 % intervals over patients and lesions, and the number of melanomas; "
            f"the line is all images ({whole:.3f}). Squares in red differ from the rest beyond noise. A subgroup's AUC "
            f"also depends on how alike its lesions are: a low one is a question, not yet a defect."
        ),
    )


def _sensitivity_forest(scored: Scored, threshold: float, found: Sequence[Subgroup]) -> Picture:
    whole = float((scored.score[scored.target] >= threshold).mean())
    shown = [each.sensitivity for each in found]
    return Picture(
        name="sensitivity_by_subgroup",
        figure=_forest_figure(found, shown, "sensitivity", whole, "sensitivity (melanomas)"),
        caption=(
            f"Share of melanomas found at the threshold that spares {_SPECIFICITY:.0%} of the other lesions overall, "
            f"with 95 % intervals over patients and lesions; the line is all images ({whole:.3f}). Squares in red "
            f"differ from the rest beyond noise: left of the line, melanomas are missed more often than in others."
        ),
    )


def _calibration_forest(found: Sequence[Subgroup]) -> Picture:
    shown = [each.observed_expected for each in found]
    title = "observed / expected (melanomas)"
    figure = _forest_figure(found, shown, "observed/expected", 1.0, title, log=True)
    return Picture(
        name="calibration_by_subgroup",
        figure=figure,
        caption=(
            "Melanomas observed over those that the probabilities expect, within each subgroup, with 95 % intervals "
            "over patients and lesions. Right of 1, probabilities are too low for the subgroup; squares in red differ "
            "from the rest beyond noise."
        ),
    )


def _forest_figure(
    found: Sequence[Subgroup], shown: Sequence[Estimate], figure: str, line: float, title: str, *, log: bool = False
) -> Figure:
    """A row for each subgroup from the top down, a little apart between families."""
    starts = np.cumsum([0, *(a.family != b.family for a, b in pairwise(found))])
    places = -(np.arange(len(found)) + 0.6 * starts)
    made, (axis,) = panels(1, height=0.23 * len(found) + 1.4)
    axis.axvline(line, color=MUTED, linewidth=0.8)
    for place, each, estimate in zip(places, found, shown, strict=True):
        if each.few:
            axis.text(line, place, TOO_FEW, fontsize=8, color=MUTED, ha="center", va="center", backgroundcolor="white")
            continue
        flagged = any(gap.flagged for gap in each.gaps if gap.figure == figure)
        colour, marker = (COLOURS[1], "s") if flagged else (COLOURS[0], "o")
        axis.plot([estimate.low, estimate.high], [place, place], color=colour, linewidth=1.5)
        axis.plot(estimate.value, place, marker, color=colour, markersize=4.5)
    axis.set_yticks(places, [f"{each.family}: {each.name} ({each.positives:,})" for each in found])
    if log:
        axis.set_xscale("log")
        ends = np.array(
            [bound for each, one in zip(found, shown, strict=True) for bound in (one.low, one.high) if not each.few]
        )
        limit = max(1.5, 1.1 * float(np.nanmax(np.maximum(ends, 1 / ends), initial=1.0)))
        ticks = [tick for tick in (0.1, 0.2, 0.5, 0.75, 1.0, 1.33, 2.0, 5.0, 10.0) if 1 / limit <= tick <= limit]
        axis.set_xlim(1 / limit, limit)
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.minorticks_off()
    finish(axis, title)
    axis.grid(axis="y", visible=False)
    return made


def _subgroups_table(found: Sequence[Subgroup]) -> Table:
    rows: list[Mapping[str, Cell]] = []
    for each in found:
        figures: dict[str, Cell] = {
            "AUC": each.auc,
            "sensitivity": each.sensitivity,
            "specificity": each.specificity,
            "observed / expected": each.observed_expected,
            "intercept at slope 1": each.in_the_large,
        }
        cells = dict.fromkeys(figures, TOO_FEW) if each.few else figures
        rows.append({"by": each.family, "group": each.name, "images": each.rows, "melanomas": each.positives, **cells})
    return Table(
        name="subgroups",
        caption=(
            f"Each subgroup with 95 % intervals that respect patients and lesions. Sensitivity and specificity are at "
            f"one threshold for all, which spares {_SPECIFICITY:.0%} of the other lesions overall: where melanoma is "
            f"rarer, as in the young, right probabilities are lower, so that sensitivity falls and specificity rises. "
            f"Groups with fewer than {LEAST} "
            f"melanomas, or others, have too few for a figure. Sources and sub-sources differ in what was collected, "
            f"so that their gaps are gaps of the data first."
        ),
        rows=rows,
    )


def _gaps_table(found: Sequence[Subgroup]) -> Table:
    rows: list[Mapping[str, Cell]] = [
        {
            "by": each.family,
            "group": each.name,
            "figure": gap.figure,
            "minus the rest": gap.difference,
            "p": gap.p,
            "p, adjusted": gap.adjusted,
            "verdict": "beyond noise" if gap.flagged else "not told from noise",
        }
        for each in found
        for gap in each.gaps
    ]
    return Table(
        name="subgroup_gaps",
        caption=(
            "Each subgroup against the rest, with 95 % intervals over patients and lesions; observed/expected as the "
            "difference of logarithms. p is adjusted by Holm for all tests of this table: where nothing differs, one "
            "gap or more is called beyond noise in 5 % of data sets."
        ),
        rows=rows,
        folded=True,
    )
