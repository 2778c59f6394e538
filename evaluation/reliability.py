"""How far probabilities can be trusted: Brier skill, slope and intercept, calibration error. target [N] is bool."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit

from evaluation.bootstrap import bootstrapped_sums, percentile_interval
from evaluation.calibration import clipped_logit, logistic_line
from evaluation.discrimination import Bools, Estimate, Floats, wilson_interval
from evaluation.ranking import ratio
from evaluation.table import Whole

_NORMAL = 1.959964  # quantile of 97.5 %
_BINS = 10


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """Measures of calibration, with 95 % intervals that respect the groups."""

    samples: int
    """Number of samples."""
    positives: int
    """Melanomas among them."""
    brier: float
    """Mean squared difference of probability and target."""
    skill: Estimate
    """1 - brier / that of predicting the prevalence for all: above 0 if the probabilities tell more than that."""
    slope: Estimate
    """Of the logistic regression of target on log odds: 1 is right, less is overconfident."""
    intercept: Estimate
    """Of the same regression: 0 is right."""
    in_the_large: Estimate
    """Intercept with the slope held at 1: 0 is right, above 0 means that the probabilities are too low on the whole."""
    ece: float
    """Expected calibration error: mean over ten bins of equal count of |mean probability - share of positives|."""
    ece_if_perfect: float
    """Mean of the same figure where the probabilities are exactly right and only chance draws the targets."""
    ece_limit: float
    """Its 95 % quantile: an ece below it is no evidence of miscalibration."""


def reliability(target: Bools, probability: Floats, group: Whole, *, draws: int = 1000, seed: int = 0) -> Reliability:
    """Every measure of calibration of probabilities [N]; `draws` and `seed` are those of the bootstrap over groups."""
    slope, intercept, in_the_large = recalibration(target, probability, group)
    perfect = ece_if_perfect(probability, seed=seed)
    return Reliability(
        samples=len(target),
        positives=int(target.sum()),
        brier=float(np.square(probability - target).mean()),
        skill=brier_skill(target, probability, group, draws=draws, seed=seed),
        slope=slope,
        intercept=intercept,
        in_the_large=in_the_large,
        ece=calibration_error(target, probability),
        ece_if_perfect=float(perfect.mean()),
        ece_limit=float(np.quantile(perfect, 0.95)),
    )


def brier_skill(target: Bools, probability: Floats, group: Whole, *, draws: int = 1000, seed: int = 0) -> Estimate:
    """1 - Brier score / Brier score of the prevalence, with its percentile interval over groups."""
    columns = np.stack([np.square(probability - target), target, np.ones(len(target))], axis=1)
    drawn = bootstrapped_sums(columns, group, draws=draws, seed=seed)
    return percentile_interval(float(_skill(columns.sum(axis=0))[()]), _skill(drawn))


def _skill(sums: Floats) -> Floats:
    """Of the sums [..., 3] of squared errors, positives and samples; NaN without both classes."""
    error, positives, samples = np.moveaxis(sums, -1, 0)
    return 1 - ratio(error * samples, positives * (samples - positives))


def recalibration(target: Bools, probability: Floats, group: Whole) -> tuple[Estimate, Estimate, Estimate]:
    """Slope and intercept of the logistic regression of target on log odds, and its intercept with the slope at 1.

    Cox, "Two Further Applications of a Model for Binary Regression", Biometrika 45, 1958, 562-565. The intervals are
    Wald's, from the variance that is robust to correlation within groups (Liang, Zeger, Biometrika 73, 1986, 13-22).
    All NaN where the probabilities or the targets do not vary.
    """
    odds = clipped_logit(probability)
    if np.ptp(odds) == 0 or target.all() or not target.any():
        return (Estimate(math.nan, math.nan, math.nan),) * 3
    slope, intercept = logistic_line(target, odds)
    design = np.stack([odds, np.ones(len(odds))], axis=1)
    errors = _robust_errors(design, target, expit(slope * odds + intercept), group)
    return _wald(slope, errors[0]), _wald(intercept, errors[1]), calibration_in_the_large(target, probability, group)


def calibration_in_the_large(target: Bools, probability: Floats, group: Whole) -> Estimate:
    """Intercept of the logistic regression of target on log odds with the slope held at 1, as in `recalibration`.

    NaN without both classes.
    """
    if target.all() or not target.any():
        return Estimate(math.nan, math.nan, math.nan)
    odds = clipped_logit(probability)
    shift = float(brentq(lambda shift: float((target - expit(odds + shift)).sum()), -50, 50))
    (error,) = _robust_errors(np.ones((len(odds), 1)), target, expit(odds + shift), group)
    return _wald(shift, error)


def _robust_errors(design: Floats, target: Bools, fitted: Floats, group: Whole) -> list[float]:
    """Standard errors of a logistic regression on a design [N, P] that keep samples of a group together."""
    names, number = np.unique(group, return_inverse=True)
    information = design.T @ (design * (fitted * (1 - fitted))[:, None])
    score = np.stack([np.bincount(number, column * (target - fitted)) for column in design.T])
    if len(names) < 2 or np.linalg.cond(information) > 1e12:  # as where the classes do not overlap
        return [math.nan] * design.shape[1]
    inverse = np.linalg.inv(information)
    variance = inverse @ score @ score.T @ inverse * len(names) / (len(names) - 1)
    return [math.sqrt(value) for value in np.diag(variance)]


def _wald(value: float, error: float) -> Estimate:
    return Estimate(value, value - _NORMAL * error, value + _NORMAL * error)


def calibration_error(target: Bools, probability: Floats, bins: int = _BINS) -> float:
    """Mean over bins of equal count, weighted by it, of |mean probability - share of positives|."""
    number = bin_numbers(probability, bins)
    return float(np.abs(np.bincount(number, probability - target)).sum() / len(target))


def ece_if_perfect(probability: Floats, bins: int = _BINS, *, draws: int = 200, seed: int = 0) -> Floats:
    """`calibration_error` [draws] where each target is drawn with exactly its probability."""
    number, rng = bin_numbers(probability, bins), np.random.default_rng(seed)
    missed = (np.bincount(number, probability - (rng.random(len(probability)) < probability)) for _ in range(draws))
    return np.array([np.abs(each).sum() / len(probability) for each in missed])


@dataclass(frozen=True, kw_only=True)
class Bin:
    """Samples of like probability: a point of a reliability diagram."""

    samples: int
    """Number of samples."""
    positives: int
    """Melanomas among them."""
    groups: int
    """Groups among them."""
    predicted: float
    """Their mean probability."""
    observed: Estimate
    """Their share of positives, with Wilson's interval for as many independent trials as there are groups."""


def reliability_bins(target: Bools, probability: Floats, group: Whole, bins: int = _BINS) -> tuple[Bin, ...]:
    """The bins of `calibration_error`, from the lowest probability up.

    Counting a group once is right where its samples are alike and too careful where they are not; unlike a bootstrap
    it has an interval where a bin has no positives.
    """
    number, found = bin_numbers(probability, bins), []
    for rows in (number == each for each in np.unique(number)):
        groups = len(np.unique(group[rows]))
        share = float(target[rows].mean())
        found.append(
            Bin(
                samples=int(rows.sum()),
                positives=int(target[rows].sum()),
                groups=groups,
                predicted=float(probability[rows].mean()),
                observed=wilson_interval(share * groups, groups),
            )
        )
    return tuple(found)


def bin_numbers(probability: Floats, bins: int) -> NDArray[np.int64]:
    """Each sample's bin [N] in order of probability, the counts differing by one at most."""
    order = np.argsort(probability, kind="stable")
    number = np.empty(len(order), dtype=np.int64)
    number[order] = np.arange(len(order)) * bins // len(order)
    return number
