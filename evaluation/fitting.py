"""All that is fitted on out-of-fold predictions: fitted on every fold to be shipped, on all but one to be scored."""

from dataclasses import dataclass

import numpy as np

from configs.schema import Combine
from evaluation.calibration import Calibrator, calibrated, fit_calibrators
from evaluation.combination import basis, equal_weights, fit_weights, weighted_mean
from evaluation.discrimination import Bools, Floats
from evaluation.operating import WANTED, threshold_for
from evaluation.table import OutOfFold, left_out


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """What some rows determined."""

    weights: Floats
    """Of the models [M]."""
    calibrators: dict[str, Calibrator]
    """By source, and "all"."""
    thresholds: tuple[float, ...]
    """Of the combined score, for each sensitivity in `operating.WANTED`."""
    raw: Floats
    """Combined score of these rows [n], by these weights."""


@dataclass(frozen=True, kw_only=True)
class CrossFitted:
    """Every sample as the other folds would have it: nothing here was fitted on its own fold."""

    raw: Floats
    """Combined score [N]."""
    calibrated: Floats
    """Probability [N]."""
    decisions: Bools
    """Whether it is suspicious at each operating point [3, N]."""


def fit(oof: OutOfFold, combine: Combine, rows: Bools, *, per_source: bool = False) -> Fitted:
    """Weights, calibrators and thresholds from the `rows` [N], which hold both classes."""
    return _fit(oof, basis(oof, combine), combine, rows, per_source)


def cross_fit(oof: OutOfFold, combine: Combine, *, per_source: bool = False) -> CrossFitted:
    """Fit on all folds but one, apply to that one, fold by fold; `table.obstacle` says whether that is possible."""
    columns, samples = basis(oof, combine), len(oof.key)
    raw, probability = np.empty(samples), np.empty(samples)
    decisions = np.empty((len(WANTED), samples), dtype=np.bool_)
    for others, rows in left_out(oof.fold):
        fitted = _fit(oof, columns, combine, others, per_source)
        raw[rows] = weighted_mean(columns[:, rows], fitted.weights)
        probability[rows] = calibrated(fitted.calibrators, raw[rows], oof.source[rows])
        decisions[:, rows] = raw[rows] >= np.array(fitted.thresholds)[:, None]
    return CrossFitted(raw=raw, calibrated=probability, decisions=decisions)


def _fit(oof: OutOfFold, columns: Floats, combine: Combine, rows: Bools, per_source: bool) -> Fitted:
    target = oof.target[rows]
    weights = fit_weights(target, columns[:, rows]) if combine == "weighted" else equal_weights(len(oof.models))
    raw = weighted_mean(columns[:, rows], weights)
    source = oof.source[rows] if per_source else None
    return Fitted(
        weights=weights,
        calibrators=fit_calibrators(target, raw, oof.fold[rows], oof.group[rows], source),
        thresholds=tuple(threshold_for(target, raw, wanted) for wanted in WANTED),
        raw=raw,
    )
