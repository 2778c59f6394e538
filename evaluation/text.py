"""A judgement in words and figures for the terminal, 80 columns wide."""

import math
from collections.abc import Iterator, Mapping

from evaluation.comparison import PARTS, Gain, Row
from evaluation.discrimination import Estimate
from evaluation.judgement import Judgement
from evaluation.reliability import Reliability
from evaluation.stability import Stability

_NAME = 14  # columns of a model's name


def lines(judgement: Judgement) -> Iterator[str]:
    """The table of AUCs, the gains, the calibration, the operating points and the stability."""
    folds = len(set(judgement.oof.fold.tolist()))
    yield f"Out-of-fold AUC over {folds} {'fold' if folds == 1 else 'folds'}, combined by {judgement.combine}"
    yield "95 % intervals: DeLong's, and below them those of the bootstrap over groups"
    yield f"{'':{_NAME}} {'rows':>7} {'pos.':>6}" + "".join(f"  {part:<15}" for part in PARTS).rstrip()
    for row in judgement.table:
        yield from _table_lines(row)
    if judgement.gains:
        yield ""
        yield "Gain in AUC (95 % interval over groups; a tie where it holds 0)"
        yield from map(_gain_line, judgement.gains)
    if judgement.combine == "weighted":
        weights = zip(judgement.oof.models, judgement.fitted.weights.tolist(), strict=True)
        yield "weights: " + ", ".join(f"{model} {weight:.2f}" for model, weight in weights)
    yield ""
    yield from _calibration_lines(judgement)
    yield ""
    yield from _operating_lines(judgement)
    yield from _stability_lines(judgement.stability)


def _table_lines(row: Row) -> Iterator[str]:
    name = row.name
    if len(name) > _NAME:  # whole, on a line of its own
        yield name
        name = ""
    cells = [f"{_number(row.delong[part].value):>5} {_bounds(row.delong[part])}" for part in PARTS]
    yield f"{name:{_NAME}} {row.rows:>7,} {row.positives:>6,}" + "".join(f"  {cell:<15}" for cell in cells).rstrip()
    cells = [f"{'':5} {_bounds(row.over_groups[part])}" for part in PARTS]
    yield (f"{'':{_NAME}} {'':7} {'':6}" + "".join(f"  {cell:<15}" for cell in cells)).rstrip()


def _gain_line(gain: Gain) -> str:
    over = "the best single model" if gain.over == "best" else "the mean"
    figures = f"{gain.difference.value:+.4f} ({gain.difference.low:+.4f} to {gain.difference.high:+.4f})"
    return f"{gain.way:<8} over {over:<21}  {figures}{'  tie' if gain.tie else ''}"


def _calibration_lines(judgement: Judgement) -> Iterator[str]:
    kinds = ", ".join(f"{name}: {each.kind}" for name, each in judgement.fitted.calibrators.items())
    yield f"Calibration ({kinds}), fitted on the other folds"
    yield from _reliability_lines("before, merged", judgement.before["merged"])
    for part, each in judgement.after.items():
        yield from _reliability_lines(f"after, {part}", each)
    if judgement.not_cross_fitted:
        yield f"  after: not judged, {judgement.not_cross_fitted}"


def _reliability_lines(title: str, found: Reliability) -> Iterator[str]:
    yield f"  {title}: Brier {found.brier:.4f}, skill {_full(found.skill)}"
    yield f"    slope {_full(found.slope)}, intercept {_full(found.intercept)}"
    yield f"    intercept at slope 1 {_full(found.in_the_large)}"
    perfect = f"{found.ece_if_perfect:.4f}, at most {found.ece_limit:.4f}"
    yield f"    ECE {found.ece:.4f} (perfectly calibrated: {perfect})"


def _operating_lines(judgement: Judgement) -> Iterator[str]:
    yield "Operating points of the combined score (held out: thresholds of the other folds)"
    for point in judgement.operating_points:
        named = f"{point.wanted:.0%} sensitivity: threshold {point.threshold:.5f}"
        yield f"  {named}, specificity {_full(point.specificity)}"
        if point.held_out_sensitivity and point.held_out_specificity:
            yield f"    held out: {_full(point.held_out_sensitivity)}, specificity {_full(point.held_out_specificity)}"


def _stability_lines(found: Mapping[str, Stability]) -> Iterator[str]:
    for between, each in found.items():
        yield f"Flips at 90 % between {between}: {_full(each.flips)} of {each.images:,} images"
        yield f"    each decides otherwise than the ensemble in {_full(each.against_mean)}"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _bounds(found: Estimate) -> str:
    """Such as .790-.834, or .952-1.00."""
    low, high = (_number(bound).replace("1.000", "1.00").removeprefix("0") for bound in (found.low, found.high))
    return "" if "-" in (low, high) else f"{low}-{high}"


def _full(found: Estimate) -> str:
    return f"{_number(found.value)} ({_number(found.low)} to {_number(found.high)})"
