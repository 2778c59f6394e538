"""Where the ensemble errs: rates by group, the melanomas it misses, the alarms it raises, and the test images."""

from itertools import pairwise

import numpy as np
import pandas as pd

from configs.colours import COLOURS, INK, MUTED
from evaluation.discrimination import Bools, Floats, wilson_interval
from evaluation.operating import OperatingPoint
from evaluation.subgroups import age_bands
from evaluation.table import Whole
from prep.diagnosis import CLASSES
from report.case import Case
from report.gallery import gallery, pixels
from report.page import Cell, Picture, Section, Table
from report.sections.data import in_order, source_name
from report.style import finish, panels

_SHOWN = 12
_LISTED = 100  # rows of the tables of errors
_CANCERS = [CLASSES.index(name) for name in ("AK", "BCC", "SCC")]


def section(case: Case) -> Section:
    """The reference figures of errors, at the operating point of 90 % sensitivity."""
    rows, target = case.judged, case.judgement.oof.target
    point = next(each for each in case.judgement.operating_points if each.wanted == 0.90)
    suspicious = case.judgement.raw >= point.threshold
    missed, alarmed = np.flatnonzero(target & ~suspicious), np.flatnonzero(~target & suspicious)
    raw = case.judgement.raw
    missed, alarmed = missed[np.argsort(raw[missed])], alarmed[np.argsort(-raw[alarmed])]
    cancers = int(np.isin(case.shards.diagnosis[case.index[alarmed]], _CANCERS).sum())
    return Section(
        title="Errors",
        lead=f"At the threshold for 90 % sensitivity, {len(missed):,} of {int(target.sum()):,} melanomas are missed "
        f"and {len(alarmed):,} of {int((~target).sum()):,} others are called suspicious; {cancers:,} of these alarms "
        "are other cancers or actinic keratoses, which no dermatologist would call a plain false alarm.",
        parts=[
            error_analysis(rows, target, suspicious, case.probability, point),
            *_galleries(case, missed, alarmed),
            _test_predictions(case, target),
            _listed(case, "false_negatives", "Missed melanomas, the lowest score first", missed),
            _listed(case, "false_positives", "False alarms, the highest score first", alarmed),
        ],
    )


def error_analysis(
    rows: pd.DataFrame, target: Bools, suspicious: Bools, probability: Floats, point: OperatingPoint
) -> Picture:
    """Missed melanomas and false alarms by age, sex, site and confidence."""
    edges = np.unique(np.quantile(probability, np.linspace(0, 1, 6)))
    fifths = [f"{low:.3f} to {high:.3f}" for low, high in pairwise(edges)] or ["all"]
    which = np.searchsorted(edges[1:-1], probability, side="right")
    shown = {
        "age": pd.Series(age_bands(rows["age"])),
        "sex": rows["sex"].fillna("missing"),
        "site": rows["site"].fillna("missing"),
        "probability": pd.Series([fifths[each] for each in which]),
    }
    figure, axes = panels(4, rows=2, width=3.9, height=3.4)
    for axis, (title, values) in zip(axes, shown.items(), strict=True):
        names = fifths if title == "probability" else in_order(values)
        for place, name in enumerate(reversed(names)):
            chosen = (values == name).to_numpy()
            for of, wrong, colour, shift in (
                (target & chosen, ~suspicious, COLOURS[1], 0.15),
                (~target & chosen, suspicious, COLOURS[0], -0.15),
            ):
                rate = wilson_interval(int((of & wrong).sum()), int(of.sum()))
                axis.plot([rate.low, rate.high], [place + shift] * 2, color=colour, linewidth=1.5)
                axis.plot(rate.value, place + shift, "o", color=colour, markersize=4)
        axis.set_yticks(range(len(names)), [name.replace("extremity", "extr.") for name in reversed(names)])
        axis.set_xlim(-0.02, 1.02)
        finish(axis, title)
    for colour, name in ((COLOURS[1], "missed melanomas"), (COLOURS[0], "false alarms")):
        axes[0].plot([], [], "o-", color=colour, markersize=4, label=name)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return Picture(
        name="error_analysis",
        figure=figure,
        caption=f"Share of melanomas that are missed and of others that raise an alarm, at the score of "
        f"{point.threshold:.4f}, with 95 % intervals. Where scores are lower, one threshold for all misses "
        "more; where intervals overlap, the data do not tell groups apart.",
    )


def _galleries(case: Case, missed: Whole, alarmed: Whole) -> list[str | Picture]:
    found: list[str | Picture] = []
    for name, chosen, what, caption in (
        ("false_negatives", missed, "No melanoma is missed.", "The melanomas with the lowest scores"),
        ("false_positives", alarmed, "There is no false alarm.", "The others with the highest scores"),
    ):
        if len(chosen):
            some = chosen[:_SHOWN]
            found.append(
                Picture(
                    name=name,
                    figure=gallery(
                        [pixels(case.shards, int(case.index[row])) for row in some],
                        [_words(case, int(row)) for row in some],
                        lines=4,
                    ),
                    caption=f"{caption}, with their calibrated probability, diagnosis, person and source. Look for "
                    "what they share: site, size, hair, a source, or a label that may be wrong.",
                )
            )
        else:
            found.append(what)
    return found


def _words(case: Case, row: int) -> str:
    facts = case.rows.iloc[case.index[row]]
    age = "age ?" if pd.isna(facts["age"]) else f"{facts['age']:.0f}"
    sex = "sex ?" if pd.isna(facts["sex"]) else facts["sex"]
    site = "site ?" if pd.isna(facts["site"]) else facts["site"]
    return (
        f"{case.probability[row]:.3f}  {str(facts['diagnosis'])[:14]}\n{age}, {sex}\n{site}\n"
        f"{source_name(int(facts['source']))}, {facts['key'].removesuffix('_downsampled')}"
    )


def _listed(case: Case, name: str, caption: str, chosen: Whole) -> Table:
    facts = case.judged
    lines: list[dict[str, Cell]] = []
    for row in chosen[:_LISTED]:
        one = facts.iloc[row]
        lines.append(
            {
                "key": str(one["key"]),
                "probability": float(case.probability[row]),
                "score": float(case.judgement.raw[row]),
                **{each: _text(one[each]) for each in ("diagnosis", "age", "sex", "site", "subsource", "group")},
                "fold": str(one["fold"]),
            }
        )
    shown = f" (the first {_LISTED} of {len(chosen):,})" if len(chosen) > _LISTED else ""
    return Table(name=name, caption=caption + shown, rows=lines, folded=True)


def _text(value: object) -> str:
    return "-" if pd.isna(value) else f"{value:.0f}" if isinstance(value, float) else str(value)  # type: ignore[call-overload]


def _test_predictions(case: Case, target: Bools) -> str | Picture:
    """The calibrated probabilities of the test images beside those out of fold."""
    if case.predictions is None:
        return "Test predictions: not measured; python infer.py --ensemble makes them."
    figure, (axis,) = panels(1, width=6.4, height=3.2)
    found = case.predictions["calibrated"].fillna(case.predictions["raw"])
    parts = (
        ("out of fold, no melanoma", case.probability[~target], COLOURS[0]),
        ("out of fold, melanoma", case.probability[target], COLOURS[1]),
        (f"test images ({len(found):,})", found.to_numpy(), INK),
    )
    steps = np.linspace(-12, 5, 52)
    for name, values, colour in parts:
        odds = np.log(values.clip(1e-6, 1 - 1e-6) / (1 - values.clip(1e-6, 1 - 1e-6))).clip(steps[0], steps[-1])
        axis.hist(odds, bins=steps.tolist(), density=True, histtype="step", linewidth=1.8, color=colour, label=name)
    ticks = [1e-4, 1e-3, 0.01, 0.05, 0.2, 0.5, 0.8, 0.95]
    axis.set_xticks([float(np.log(tick / (1 - tick))) for tick in ticks], [f"{tick:g}" for tick in ticks])
    axis.legend(frameon=False, fontsize=8)
    finish(axis, "distribution of probabilities, on the scale of log odds", "calibrated probability", "density")
    axis.tick_params(colors=MUTED)
    return Picture(
        name="test_predictions_distribution",
        figure=figure,
        caption="Calibrated probabilities of the test images beside those out of fold. Their mean is "
        f"{found.mean():.3f}; melanomas are {target.mean():.3f} of the out-of-fold images. If the test images lie "
        "elsewhere than both classes together, they come from another population and the probabilities need a new "
        "prevalence.",
    )
