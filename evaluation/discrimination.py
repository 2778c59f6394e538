"""Discrimination: AUC with its interval, paired differences, AUC by source, sensitivity and specificity.

Targets are 0 or 1 [N], scores any real numbers [N] (higher is more suspicious); ties count one half.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

SOURCES = ("2019", "2020")

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Estimate:
    """A metric with its two-sided confidence interval; NaN where the data do not determine it."""

    value: float
    low: float
    high: float


def auc(target: ArrayLike, score: ArrayLike) -> float:
    """Probability that a positive scores above a negative, ties one half (Mann-Whitney); NaN without both classes.

    Raises ValueError for unequal lengths, a target other than 0 and 1, or a score that is NaN.
    """
    truth, (scores,) = _checked(target, score=score)
    positives, negatives = int(truth.sum()), int((~truth).sum())
    if positives == 0 or negatives == 0:
        return math.nan
    rank_sum = float(_midranks(scores)[truth].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def auc_interval(target: ArrayLike, score: ArrayLike, level: float = 0.95) -> Estimate:
    """AUC and its interval: normal on the logit scale, with DeLong's variance, so that it stays within 0 to 1.

    Source of the scale: Pepe, The Statistical Evaluation of Medical Tests for Classification and Prediction, 2003,
    section 5.2; Qin, Hotilovac, Statistical Methods in Medical Research 17(2), 2008, 207-221, compare it with others.
    An AUC of 0 or 1 has no logit. Of P positives and N negatives, min(P, N) pairs can be formed that share no sample;
    these are independent and all ordered alike, so that the exact binomial bound (Clopper, Pearson, Biometrika 26,
    1934, 404-413) of as many trials holds: a wide one, the other bound being the AUC itself.
    NaN as in `auc`; only the bounds are NaN if a class has a single sample. Raises ValueError as `auc` does.
    """
    from scipy.special import expit, logit  # training needs no interval

    truth, (scores,) = _checked(target, score=score)
    values, covariance = _delong(truth, scores[None])
    value, variance, z = float(values[0]), float(covariance[0, 0]), _quantile(level)
    if math.isnan(variance):
        return Estimate(value, math.nan, math.nan)
    if value in (0, 1):
        bound = ((1 - level) / 2) ** (1 / min(truth.sum(), (~truth).sum()))
        return Estimate(value, *((bound, 1.0) if value == 1 else (0.0, 1 - bound)))
    half_width = z * math.sqrt(variance) / (value * (1 - value))
    low, high = (float(expit(logit(value) + side)) for side in (-half_width, half_width))
    return Estimate(value, low, high)


def paired_auc_difference(target: ArrayLike, a: ArrayLike, b: ArrayLike, level: float = 0.95) -> Estimate:
    """auc(target, a) - auc(target, b) with a normal interval, for two scores of the same samples.

    The covariance of the two AUCs is DeLong's (DeLong, DeLong, Clarke-Pearson, Biometrics 44, 1988, 837-845).
    NaN and ValueError as in `auc_interval`.
    """
    truth, scores = _checked(target, a=a, b=b)
    values, covariance = _delong(truth, np.stack(scores))
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    return _normal_interval(float(values[0] - values[1]), float(variance), level)


def source_aucs(target: ArrayLike, score: ArrayLike, source: ArrayLike) -> dict[str, float]:
    """AUC over all samples ("merged") and within each source ("2019", "2020"); NaN where a class is missing.

    `source` [N] holds 2019 or 2020, as numbers or text, or 0 for rows of an outside set, which count in the merged
    AUC only. The merged AUC is inflated, since melanoma is ten times as frequent in 2019: report it beside the other
    two. Raises ValueError as `auc` does.
    """
    truth, (scores,) = _checked(target, score=score)
    years = np.asarray(source).astype(str)
    if years.shape != truth.shape:
        raise ValueError(f"source has shape {years.shape}, target {truth.shape}")
    if unknown := set(years.tolist()) - {*SOURCES, "0"}:
        raise ValueError(f"source holds {', '.join(sorted(unknown))}: only {' and '.join(SOURCES)} are known")
    within = {year: auc(truth[years == year], scores[years == year]) for year in SOURCES}
    return {"merged": auc(truth, scores), **within}


def sensitivity(target: ArrayLike, probability: ArrayLike, threshold: float) -> float:
    """Fraction of the positives with a probability of `threshold` or more; NaN without positives."""
    truth, (scores,) = _checked(target, probability=probability)
    return float(np.mean(scores[truth] >= threshold)) if truth.any() else math.nan


def specificity(target: ArrayLike, probability: ArrayLike, threshold: float) -> float:
    """Fraction of the negatives with a probability below `threshold`; NaN without negatives."""
    truth, (scores,) = _checked(target, probability=probability)
    return float(np.mean(scores[~truth] < threshold)) if not truth.all() else math.nan


def wilson_interval(successes: float, total: float, level: float = 0.95) -> Estimate:
    """A proportion and its Wilson score interval, for independent trials; NaN where `total` is 0.

    `successes` may be a fraction where it is a mean of several counts. Source: E. B. Wilson, "Probable Inference, the
    Law of Succession, and Statistical Inference", Journal of the American Statistical Association 22, 1927, 209-212.
    """
    if total == 0:
        return Estimate(math.nan, math.nan, math.nan)
    share, z = successes / total, NormalDist().inv_cdf((1 + level) / 2)
    shrink = 1 + z * z / total
    centre = (share + z * z / (2 * total)) / shrink
    half_width = z * math.sqrt(share * (1 - share) / total + (z / (2 * total)) ** 2) / shrink
    return Estimate(share, max(centre - half_width, 0.0), min(centre + half_width, 1.0))


def log_loss(target: ArrayLike, probability: ArrayLike) -> float:
    """Mean binary cross-entropy in nats, of targets 0 or 1 [N] and probabilities [N] clipped to 1e-7 from 0 and 1."""
    truth, (clipped,) = _checked(target, probability=probability)
    clipped = clipped.clip(1e-7, 1 - 1e-7)
    return float(-np.where(truth, np.log(clipped), np.log1p(-clipped)).mean())


def _midranks(values: Floats) -> Floats:
    """Ranks of values [N], from 1; equal ones share the mean of theirs.

    As scipy.stats.rankdata, whose import took a quarter of the time in which train.py started.
    """
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Floats = (counts.cumsum() - (counts - 1) / 2)[places]
    return ranks


def _delong(truth: Bools, scores: Floats) -> tuple[Floats, Floats]:
    """AUCs [K] of scores [K, N] and their covariance [K, K]; NaN if there are too few samples.

    The fast algorithm: X. Sun, W. Xu, "Fast Implementation of DeLong's Algorithm for Comparing the Areas Under
    Correlated Receiver Operating Characteristic Curves", IEEE Signal Processing Letters 21(11), 2014, 1389-1393.
    """
    positives, negatives = int(truth.sum()), int((~truth).sum())
    undefined = np.full((len(scores), len(scores)), np.nan)
    if positives == 0 or negatives == 0:
        return undefined[0], undefined
    overall, among_positives, among_negatives = (
        np.stack([_midranks(row) for row in part]) for part in (scores, scores[:, truth], scores[:, ~truth])
    )
    # Fraction of the other class that each sample is ordered correctly against: structural components V10 and V01.
    beaten = (overall[:, truth] - among_positives) / negatives
    beating = 1 - (overall[:, ~truth] - among_negatives) / positives
    values: Floats = beaten.mean(axis=1)
    if positives < 2 or negatives < 2:
        return values, undefined
    covariance: Floats = np.atleast_2d(np.cov(beaten)) / positives + np.atleast_2d(np.cov(beating)) / negatives
    return values, covariance


def _normal_interval(value: float, variance: float, level: float) -> Estimate:
    # Rounding can leave the variance of equal scores slightly below 0.
    half_width = _quantile(level) * math.sqrt(max(variance, 0.0))
    return Estimate(value, value - half_width, value + half_width)


def _quantile(level: float) -> float:
    """Standard errors on either side of a normal interval."""
    if not 0 < level < 1:
        raise ValueError(f"level={level} is out of range: give a confidence level between 0 and 1")
    return NormalDist().inv_cdf((1 + level) / 2)


def _checked(target: ArrayLike, **scores: ArrayLike) -> tuple[Bools, list[Floats]]:
    """`target` as bool [N] and each score as float64 [N]; ValueError names the one that does not fit."""
    truth = _numbers("target", target)
    if not np.isin(truth, (0, 1)).all():
        raise ValueError("target holds values other than 0 and 1")
    arrays = [_numbers(name, values) for name, values in scores.items()]
    for name, values in zip(scores, arrays, strict=True):
        if values.shape != truth.shape:
            raise ValueError(f"{name} has {len(values)} values, target {len(truth)}")
    return truth.astype(bool), arrays


def _numbers(name: str, values: ArrayLike) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"{name} has shape {array.shape}: expected one dimension")
    if np.isnan(array).any():
        raise ValueError(f"{name} holds NaN, first at row {int(np.isnan(array).argmax())}")
    return array
