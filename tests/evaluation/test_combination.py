from itertools import pairwise

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import expit
from scipy.stats import rankdata
from simulated import out_of_fold, without_fold
from sklearn.metrics import roc_auc_score

from evaluation.combination import (
    equal_weights,
    fit_weights,
    out_of_fold_scores,
    rank_against,
    ranks_within_folds,
    weighted_mean,
)


def test_the_rank_of_a_reference_in_itself_is_its_mid_rank() -> None:
    reference = np.round(np.random.default_rng(0).random(200), 2)
    assert len(np.unique(reference)) < 200
    assert rank_against(reference, reference) == pytest.approx((rankdata(reference) - 0.5) / 200)


def test_the_rank_rises_from_0_to_1_without_jumps() -> None:
    reference = np.random.default_rng(0).beta(1, 5, 300)
    score = np.linspace(0, 1, 100_001)
    rank = rank_against(reference, score)
    assert (rank[0], rank[-1]) == (0, 1)
    assert (np.diff(rank) > 0).all()
    # The steepest place lies between the closest neighbours in the reference; a step would rise by 1/300 at once.
    steepest = max(1 / (300 * (right - left)) for left, right in pairwise(np.sort(reference)))
    moved = rank_against(reference, reference + 1e-9) - rank_against(reference, reference)
    assert moved.max() <= steepest * 1e-9 * 1.001


def test_an_empty_reference_is_refused() -> None:
    with pytest.raises(ValueError, match="reference of 0 values"):
        rank_against([], [0.5])


def test_ranks_are_within_the_fold_and_the_model() -> None:
    oof = without_fold(out_of_fold(100), 1, [2])
    ranks = ranks_within_folds(oof.scores, oof.fold)
    assert np.array_equal(np.isnan(ranks), np.isnan(oof.scores))
    rows = oof.fold == 3
    expected = (rankdata(oof.scores[1, rows]) - 0.5) / rows.sum()
    assert ranks[1, rows] == pytest.approx(expected)


def test_the_weighted_mean_is_over_the_models_that_cover_a_sample() -> None:
    scores = np.array([[0.2, np.nan, np.nan], [0.6, 0.6, np.nan], [0.4, 0.8, 0.3]])
    assert weighted_mean(scores, np.array([0.5, 0.3, 0.2])) == pytest.approx([0.36, 0.68, 0.3])
    assert weighted_mean(scores, np.array([1.0, 0.0, 0.0])) == pytest.approx([0.2, 0.7, 0.3])
    with pytest.raises(ValueError, match="no model covers sample 1"):
        weighted_mean(np.array([[0.5, np.nan]]), np.ones(1))


def test_the_fit_of_two_weights_is_the_minimum_of_the_stated_sum() -> None:
    oof = out_of_fold(2000, noise=(0.3, 1.5))
    mean, positives = oof.scores.mean(axis=0), oof.target.sum()
    # How much a negative counts: the plain mean is then right about the share of positives.
    negative = (1 - mean[oof.target]).sum() / mean[~oof.target].sum()
    assert positives == pytest.approx((mean * np.where(oof.target, 1, negative)).sum())

    def total(first: float) -> float:
        combined = first * oof.scores[0] + (1 - first) * oof.scores[1]
        loss = -np.log(combined[oof.target]).sum() - negative * np.log(1 - combined[~oof.target]).sum()
        return float(loss / positives + 2 * 4 / positives * 2 * (first - 0.5) ** 2)

    expected = minimize_scalar(total, bounds=(0, 1), method="bounded", options={"xatol": 1e-8}).x
    assert fit_weights(oof.target, oof.scores) == pytest.approx([expected, 1 - expected], abs=1e-4)
    assert 0.55 < expected < 1


def test_weights_are_none_below_0_and_leave_out_a_model_of_noise() -> None:
    oof = out_of_fold(20_000, noise=(0.5, 0.5, 30.0))
    weights = fit_weights(oof.target, oof.scores)
    assert weights.min() >= 0
    assert weights.sum() == pytest.approx(1)
    assert weights[2] < 0.1
    assert weights[:2] == pytest.approx([0.5, 0.5], abs=0.1)


def test_weights_do_not_depend_on_the_prevalence_that_the_models_were_trained_for() -> None:
    """Two equally good models that a weight on positives has shifted by 2.3 in the logit, and one far better."""
    oof = out_of_fold(20_000, noise=(1.0, 1.0, 0.1))
    odds = np.log(oof.scores / (1 - oof.scores))
    weights = fit_weights(oof.target, expit(odds + 2.3))
    assert weights[2] > 0.8
    assert fit_weights(oof.target, oof.scores)[2] > 0.8


@pytest.mark.parametrize("models", [5, 20])
def test_few_positives_cannot_overfit_the_weights(models: int) -> None:
    """Equally good models, so the mean is best: weights of some 40 positives must not lose AUC on other samples."""
    lost = []
    for seed in range(8):
        fitted = out_of_fold(200, noise=[1.0] * models, seed=2 * seed)
        other = out_of_fold(10_000, noise=[1.0] * models, seed=2 * seed + 1)
        weights = fit_weights(fitted.target, fitted.scores)
        assert abs(weights - 1 / models).max() < 0.7 / models
        mean, weighted = (weighted_mean(other.scores, each) for each in (equal_weights(models), weights))
        lost.append(roc_auc_score(other.target, mean) - roc_auc_score(other.target, weighted))
    assert np.mean(lost) < 0.001


def test_a_model_that_covers_nothing_neither_gains_nor_harms() -> None:
    oof = out_of_fold(5000, noise=(0.3, 1.0, 0.5))
    scores = oof.scores.copy()
    scores[2] = np.nan
    weights = fit_weights(oof.target, scores)
    two = fit_weights(oof.target, oof.scores[:2])
    assert weights[0] > weights[1]
    assert two[0] > two[1]
    assert weights[2] > 0.1


def test_one_class_gives_equal_weights() -> None:
    assert fit_weights(np.zeros(10, dtype=bool), np.random.default_rng(0).random((4, 10))) == pytest.approx([0.25] * 4)


def test_out_of_fold_weights_know_nothing_of_their_own_fold() -> None:
    oof = out_of_fold(1000)
    changed = out_of_fold(1000, target=np.where(oof.fold == 2, ~oof.target, oof.target))
    before, after = (out_of_fold_scores(each, "weighted") for each in (oof, changed))
    assert np.array_equal(before[oof.fold == 2], after[oof.fold == 2])
    assert not np.array_equal(before[oof.fold != 2], after[oof.fold != 2])


def test_mean_and_rank_are_those_of_the_definitions() -> None:
    oof = without_fold(out_of_fold(200), 0, [1])
    assert out_of_fold_scores(oof, "mean") == pytest.approx(np.nanmean(oof.scores, axis=0))
    ranks = np.stack(
        [
            [
                np.nanmean(row[oof.fold == fold] < value) + 0.5 / (oof.fold == fold).sum()
                for value, fold in zip(row, oof.fold, strict=True)
            ]
            for row in oof.scores[1:]
        ]
    )
    rows = oof.fold == 1
    assert out_of_fold_scores(oof, "rank")[rows] == pytest.approx(ranks[:, rows].mean(axis=0))
