"""One score from many models: mean of probabilities, mean of ranks, or a fitted weighted mean.

Scores are probabilities, float64 [M, N] for M models and N samples; NaN where a model does not cover a sample.
"""

from typing import get_args

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize

from configs.schema import Combine
from evaluation.discrimination import Bools, Floats
from evaluation.table import OutOfFold, Whole, left_out

WAYS: tuple[Combine, ...] = get_args(Combine)
_EDGE = 1e-6  # keeps the logarithm finite where a model is certain and wrong


def rank_against(reference: ArrayLike, score: ArrayLike) -> Floats:
    """The share of `reference` [n] that lies below each `score` [N], ties counting half: 0 to 1, float64 [N].

    Between the reference's values, and from its ends to the scores 0 and 1, the share is interpolated. A step function
    would jump by 1/n wherever a score that varies by 1e-7 (as a network's does with the batch size) crosses one of
    them. NaN stays NaN. Raises ValueError for an empty reference, or one with NaN.
    """
    values, counts = np.unique(np.asarray(reference, dtype=np.float64), return_counts=True)
    if not len(values) or np.isnan(values[-1]):
        raise ValueError(f"a reference of {len(values)} values ranks nothing: give numbers, one at least")
    shares = (np.cumsum(counts) - counts / 2) / counts.sum()
    if values[0] > 0:
        values, shares = np.append(0.0, values), np.append(0.0, shares)
    if values[-1] < 1:
        values, shares = np.append(values, 1.0), np.append(shares, 1.0)
    ranks: Floats = np.interp(np.asarray(score, dtype=np.float64), values, shares)
    return ranks


def ranks_within_folds(scores: Floats, fold: Whole) -> Floats:
    """Each score's rank among those of the same model and fold, 0 to 1 [M, N]; fold [N]. No target is looked at."""
    ranks = np.full_like(scores, np.nan)
    for number in np.unique(fold):
        for model, row in enumerate(scores):
            rows = np.flatnonzero((fold == number) & ~np.isnan(row))
            if len(rows):
                ranks[model, rows] = rank_against(row[rows], row[rows])
    return ranks


def weighted_mean(scores: Floats, weights: Floats) -> Floats:
    """Weighted mean [N] of scores [M, N], the weights [M] scaled to sum to one over the models that cover a sample.

    Models without weight count alike where no other covers a sample. Raises ValueError if none at all does.
    """
    covered = ~np.isnan(scores)
    if not covered.any(axis=0).all():
        raise ValueError(f"no model covers sample {int((~covered.any(axis=0)).argmax())}")
    share = np.where(covered, weights[:, None], 0.0)
    share = np.where(share.sum(axis=0) > 0, share, covered)
    mean: Floats = (share * np.where(covered, scores, 0.0)).sum(axis=0) / share.sum(axis=0)
    return mean


def equal_weights(models: int) -> Floats:
    """The weights of the plain mean [M]."""
    return np.full(models, 1 / models)


def fit_weights(target: Bools, scores: Floats) -> Floats:
    """Weights [M], 0 or more and summing to one, of the mean of probabilities [M, N] that best fits target [N].

    They minimise log loss + 2 M^2 / P * sum((weights - 1/M)^2), P being the number of positives. The log loss is a
    sum over the samples, divided by P; each negative counts such that the plain mean is right about the share of
    positives, because networks trained with a weight on positives predict for a population with more of them, and
    would be chosen for their prevalence otherwise. The problem is convex.

    Why it cannot overfit: the second term is a normal prior with a standard deviation of half a weight, 1/(2M). For a
    rare class the data say about P d^2 on a weight, d being the relative difference between the models' probabilities,
    against 4 M^2 of the prior: with few positives, many models or like models the plain mean is kept. In simulations
    with 50 positives and five equally good models it lost 0.0004 of AUC to the mean, a prior of a whole weight 0.003.
    Where a model does not cover a sample, the mean of the others stands in for it, which speaks neither for nor
    against it. Without both classes the weights are equal.
    """
    count, positives = len(scores), int(target.sum())
    equal = equal_weights(count)
    if count == 1 or positives in (0, len(target)):
        return equal
    filled = np.where(np.isnan(scores), weighted_mean(scores, equal), scores).clip(_EDGE, 1 - _EDGE)
    hit = np.where(target, filled, 1 - filled)  # the probability of what was true: linear in the weights
    miss = 1 - equal @ hit
    times = np.where(target, 1.0, miss[target].sum() / miss[~target].sum()) / positives
    ridge = 4 * count**2 / positives

    def loss(weights: Floats) -> tuple[float, Floats]:
        mean, away = weights @ hit, weights - equal
        value = ridge / 2 * float(away @ away) - float(times @ np.log(mean))
        return value, ridge * away - hit @ (times / mean)

    found = minimize(
        loss,
        equal,
        jac=True,
        method="SLSQP",
        bounds=[(0, 1)] * count,
        constraints={"type": "eq", "fun": lambda weights: weights.sum() - 1, "jac": np.ones_like},
        options={"ftol": 1e-10, "maxiter": 500},
    )
    weights: Floats = np.maximum(found.x, 0)
    weights /= weights.sum()
    return weights


def basis(oof: OutOfFold, combine: Combine) -> Floats:
    """What is averaged over the models [M, N]: their ranks within the fold, or their probabilities."""
    return ranks_within_folds(oof.scores, oof.fold) if combine == "rank" else oof.scores


def out_of_fold_scores(oof: OutOfFold, combine: Combine) -> Floats:
    """The combined score of every sample [N]; "weighted" with the weights that the other folds give."""
    columns, equal = basis(oof, combine), equal_weights(len(oof.models))
    if combine != "weighted":
        return weighted_mean(columns, equal)
    scores = np.full(len(oof.key), np.nan)
    for others, fold in left_out(oof.fold):
        weights = fit_weights(oof.target[others], columns[:, others])
        scores[fold] = weighted_mean(columns[:, fold], weights)
    return scores
