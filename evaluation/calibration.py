"""From a score to a probability that means something: Platt's or isotonic regression, and a shift of the prevalence.

Scores are 0 to 1, float64 [N], and need not be probabilities; targets are bool [N].
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, logit
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from configs.errors import UserError
from evaluation.discrimination import SOURCES, Bools, Floats
from evaluation.table import Whole, left_out, obstacle

Kind = Literal["platt", "isotonic", "none"]
LEAST = 20
"""Melanomas, and others, that a source must have for a calibrator of its own."""
_EDGE = 1e-7  # of the scores: their logit stays within 16.2
_CERTAIN = 1e-9  # of the results


@dataclass(frozen=True, kw_only=True)
class Calibrator:
    """A non-decreasing function from a score to a probability, for the prevalence of the rows it was fitted on."""

    kind: Kind
    """platt: a line in the logit; isotonic: a line through points; none: the score itself, if nothing was fitted."""
    prevalence: float = math.nan
    """Share of positives in the rows it was fitted on."""
    slope: float = 1.0
    """Of Platt's line."""
    intercept: float = 0.0
    """Of Platt's line."""
    x: tuple[float, ...] = ()
    """Scores of the points of an isotonic one, increasing."""
    y: tuple[float, ...] = ()
    """Their probabilities, increasing."""

    def apply(self, score: ArrayLike) -> Floats:
        """Probabilities [N], never 0 or 1, of scores [N]."""
        scores = np.asarray(score, dtype=np.float64)
        probability = scores
        if self.kind == "platt":
            probability = expit(self.slope * clipped_logit(scores) + self.intercept)
        elif self.kind == "isotonic":
            probability = np.interp(scores, self.x, self.y)
        return probability.clip(_CERTAIN, 1 - _CERTAIN)

    def to_dict(self) -> dict[str, Any]:
        """What `from_dict` takes; JSON can hold it unless nothing was fitted, when the prevalence is NaN."""
        return asdict(self)

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> "Calibrator":
        """The calibrator that `to_dict` saved."""
        prevalence = math.nan if saved["prevalence"] is None else saved["prevalence"]
        return cls(**{**saved, "prevalence": prevalence, "x": tuple(saved["x"]), "y": tuple(saved["y"])})


def clipped_logit(score: ArrayLike) -> Floats:
    """Log odds [N] of scores [N], which are clipped to 1e-7 from 0 and 1."""
    found: Floats = logit(np.asarray(score, dtype=np.float64).clip(_EDGE, 1 - _EDGE))
    return found


def logistic_line(target: Bools, x: Floats) -> tuple[float, float]:
    """Slope and intercept of the logistic regression of target [N] on x [N], without a penalty."""
    fitted = LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000).fit(x[:, None], target)
    return float(fitted.coef_[0, 0]), float(fitted.intercept_[0])


def fit_calibrator(kind: Kind, target: Bools, score: Floats) -> Calibrator:
    """The calibrator of that kind that fits best; `target` holds both classes.

    Platt's slope is 0 or more: a score that orders the wrong way tells nothing, and every sample gets the prevalence.
    Isotonic regression is a step function; its steps are joined by lines between their mean scores (centred isotonic
    regression: Oron, Flournoy, Statistics in Biopharmaceutical Research 9(3), 2017, 258-267), so that neighbours keep
    their order and a score that varies by rounding cannot jump. Its ends stay half a sample away from 0 and 1.
    """
    prevalence, half_a_sample = float(target.mean()), 0.5 / len(target)
    if kind == "isotonic":
        regression = IsotonicRegression(y_min=half_a_sample, y_max=1 - half_a_sample)
        fitted = regression.fit_transform(score, target).round(12)  # equal within a step but for rounding
        y, step = np.unique(fitted, return_inverse=True)
        x = np.bincount(step, score) / np.bincount(step)
        return Calibrator(kind=kind, prevalence=prevalence, x=tuple(x.tolist()), y=tuple(y.tolist()))
    if kind == "platt":
        slope, intercept = logistic_line(target, clipped_logit(score))
        if slope < 0:
            slope, intercept = 0.0, float(logit(prevalence))
        return Calibrator(kind=kind, prevalence=prevalence, slope=slope, intercept=intercept)
    return Calibrator(kind=kind, prevalence=prevalence)


def choose(target: Bools, score: Floats, fold: Whole, group: Whole) -> Kind:
    """Isotonic where its Brier score, cross-validated over the folds [N], is better than Platt's beyond the noise.

    Beyond the noise: by 1.96 standard errors of the difference over groups [N]. Platt's has two parameters only and is
    the choice in all other cases, such as a single fold.
    """
    if obstacle(target, fold):
        return "platt"
    gained = np.empty(len(target))
    for others, rows in left_out(fold):
        errors = [
            np.square(fit_calibrator(kind, target[others], score[others]).apply(score[rows]) - target[rows])
            for kind in ("platt", "isotonic")
        ]
        gained[rows] = errors[0] - errors[1]
    _, number = np.unique(group, return_inverse=True)
    error = math.sqrt(float(np.square(np.bincount(number, gained - gained.mean())).sum()))
    return "isotonic" if gained.sum() > 1.96 * error else "platt"


def fit_calibrators(
    target: Bools, score: Floats, fold: Whole, group: Whole, source: Whole | None = None
) -> dict[str, Calibrator]:
    """The calibrator of "all" rows and, if `source` [N] is given, one of each year with 20 melanomas and 20 others."""
    parts = {"all": np.ones(len(target), dtype=np.bool_)}
    if source is not None:
        parts |= {year: source == int(year) for year in SOURCES}
    found = {}
    for name, rows in parts.items():
        if name == "all" or min(target[rows].sum(), (~target[rows]).sum()) >= LEAST:
            kind = choose(target[rows], score[rows], fold[rows], group[rows])
            found[name] = fit_calibrator(kind, target[rows], score[rows])
    return found


def calibrated(
    calibrators: Mapping[str, Calibrator],
    score: ArrayLike,
    source: ArrayLike | None = None,
    prevalence: float | None = None,
) -> Floats:
    """Probabilities [N] of scores [N], by the calibrator of each sample's source [N], or of "all" where it has none.

    With `prevalence`, that of the place of use, they are shifted from the one each calibrator was fitted on. Raises
    UserError for a prevalence that is not between 0 and 1, or where nothing was fitted.
    """
    scores = np.asarray(score, dtype=np.float64)
    years = np.zeros(len(scores), dtype=str) if source is None else np.asarray(source).astype(str)
    own = [year for year in calibrators if year != "all"]
    found = np.empty(len(scores))
    for name, calibrator in calibrators.items():
        rows = ~np.isin(years, own) if name == "all" else years == name
        found[rows] = calibrator.apply(scores[rows])
        if prevalence is not None and rows.any():
            found[rows] = prior_shift(found[rows], calibrator.prevalence, prevalence)
    return found


def prior_shift(probability: ArrayLike, trained: float, deployed: float) -> Floats:
    """Probabilities [N] for a population with prevalence `deployed`, from ones for a population with `trained`.

    p' = p d/t / (p d/t + (1 - p) (1 - d)/(1 - t)), which holds where the two differ in nothing but the prevalence:
    Saerens, Latinne, Decaestecker, "Adjusting the Outputs of a Classifier to New a Priori Probabilities: A Simple
    Procedure", Neural Computation 14(1), 2002, 21-41. Raises UserError for prevalences that are not between 0 and 1.
    """
    for name, value in (("the prevalence of the fitted rows", trained), ("prevalence", deployed)):
        if not 0 < value < 1:
            raise UserError(f"{name}={value} is out of range: no shift without one between 0 and 1")
    given = np.asarray(probability, dtype=np.float64)
    positive, negative = given * deployed / trained, (1 - given) * (1 - deployed) / (1 - trained)
    shifted: Floats = positive / (positive + negative)
    return shifted
