import json
import math

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit, logit
from simulated import calibrated_case
from sklearn.isotonic import IsotonicRegression

from configs.errors import UserError
from evaluation.calibration import (
    Calibrator,
    Kind,
    calibrated,
    choose,
    fit_calibrator,
    fit_calibrators,
    prior_shift,
)


def test_platt_is_the_maximum_of_the_likelihood() -> None:
    target, probability = calibrated_case(2000)
    score = expit(0.5 * logit(probability) + 1)

    def loss(line: np.ndarray) -> float:
        odds = line[0] * logit(score) + line[1]
        return float(np.logaddexp(0, np.where(target, -odds, odds)).sum())

    expected = minimize(loss, [1, 0], method="BFGS").x
    found = fit_calibrator("platt", target, score)
    assert (found.slope, found.intercept) == pytest.approx(expected, abs=1e-4)
    assert found.apply(score) == pytest.approx(expit(expected[0] * logit(score) + expected[1]), abs=1e-4)
    assert found.prevalence == target.mean()


def test_a_score_that_orders_the_wrong_way_gets_the_prevalence() -> None:
    target, probability = calibrated_case(500)
    found = fit_calibrator("platt", target, 1 - probability)
    assert found.apply([0.1, 0.9]) == pytest.approx([target.mean()] * 2)


def test_isotonic_is_that_of_scikit_learn_but_for_lines_between_the_steps() -> None:
    target, probability = calibrated_case(3000)
    found = fit_calibrator("isotonic", target, probability)
    assert (np.diff([found.x, found.y]) > 0).all()
    steps = IsotonicRegression().fit_transform(probability, target)
    assert found.apply(probability) == pytest.approx(steps, abs=0.25)
    assert found.apply(probability).mean() == pytest.approx(target.mean(), abs=0.01)
    # Each step's mean score gets the step's value.
    for value in np.unique(steps)[1:-1]:
        assert found.apply([probability[steps == value].mean()])[0] == pytest.approx(value)


@pytest.mark.parametrize("kind", ["platt", "isotonic", "none"])
def test_results_are_never_0_or_1_and_keep_the_order(kind: Kind) -> None:
    target, probability = calibrated_case(2000)
    found = fit_calibrator(kind, target, probability).apply([0, 1e-12, 0.01, 0.3, 0.9, 1 - 1e-12, 1])
    assert found.min() > 0
    assert found.max() < 1
    assert (np.diff(found) >= 0).all()


@pytest.mark.parametrize("kind", ["platt", "isotonic"])
def test_a_score_that_varies_by_rounding_does_not_jump(kind: Kind) -> None:
    target, probability = calibrated_case(5000)
    found = fit_calibrator(kind, target, probability)
    score = np.linspace(0.001, 0.999, 10_000)
    assert abs(found.apply(score + 1e-7) - found.apply(score)).max() < 1e-5


@pytest.mark.parametrize("kind", ["platt", "isotonic", "none"])
def test_a_calibrator_survives_json(kind: Kind) -> None:
    target, probability = calibrated_case(400)
    found = fit_calibrator(kind, target, probability)
    saved = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert Calibrator.from_dict(saved) == found


def folds_and_groups(samples: int) -> tuple[np.ndarray, np.ndarray]:
    group = np.arange(samples) // 2
    return group % 5, group


def test_the_kind_is_isotonic_only_where_a_line_does_not_do() -> None:
    target, probability = calibrated_case(6000)
    fold, group = folds_and_groups(6000)
    assert choose(target, probability, fold, group) == "platt"
    bent = np.where(probability < 0.5, 0.01 * probability, probability)
    assert choose(target, bent, fold, group) == "isotonic"
    assert choose(target, bent, 0 * fold, group) == "platt"


def test_noise_in_whole_groups_is_not_taken_for_evidence() -> None:
    """Copies of a few samples: without groups the gain of isotonic regression seems certain."""
    rng = np.random.default_rng(3)
    target, probability = (np.repeat(part, 200) for part in calibrated_case(60, seed=3))
    fold = rng.integers(0, 5, 60).repeat(200)
    apart = [choose(target, probability, rng.integers(0, 5, len(target)), np.arange(len(target)))]
    assert apart == ["isotonic"]
    assert choose(target, probability, fold, np.repeat(np.arange(60), 200)) == "platt"


def test_a_source_has_a_calibrator_of_its_own_if_it_has_enough_of_both_classes() -> None:
    target, probability = calibrated_case(2000)
    fold, group = folds_and_groups(2000)
    source = np.where(np.arange(2000) < 1000, 2019, 2020)
    rare = target.copy()
    rare[source == 2020] = np.arange(1000) < 19
    assert set(fit_calibrators(rare, probability, fold, group)) == {"all"}
    assert set(fit_calibrators(rare, probability, fold, group, source)) == {"all", "2019"}
    found = fit_calibrators(target, probability, fold, group, source)
    assert set(found) == {"all", "2019", "2020"}
    assert found["2019"] == fit_calibrators(target[:1000], probability[:1000], fold[:1000], group[:1000])["all"]


def test_each_sample_is_calibrated_by_its_source_and_others_by_all() -> None:
    calibrators = {
        "all": Calibrator(kind="platt", prevalence=0.1, intercept=1.0),
        "2019": Calibrator(kind="platt", prevalence=0.2, intercept=-1.0),
    }
    expected = expit(logit(0.4) + np.array([1, -1, 1, 1]))
    assert calibrated(calibrators, [0.4] * 4, [2020, 2019, 0, 2020]) == pytest.approx(expected)
    assert calibrated(calibrators, [0.4], None) == pytest.approx(expected[:1])
    shifted = calibrated(calibrators, [0.4, 0.4], ["2020", "2019"], prevalence=0.02)
    assert shifted == pytest.approx(
        [prior_shift(expected[0], 0.1, 0.02).item(), prior_shift(expected[1], 0.2, 0.02).item()]
    )


def test_the_prior_shift_is_right_in_a_population_with_another_prevalence() -> None:
    """Keep every positive and a fifth of the negatives: the shifted probability must match the shares found there."""
    target, probability = calibrated_case(400_000, centre=0)
    rng = np.random.default_rng(1)
    kept = target | (rng.random(len(target)) < 0.2)
    shifted = prior_shift(probability[kept], target.mean(), target[kept].mean())
    edges = np.quantile(shifted, np.linspace(0, 1, 11)[1:-1])
    number = np.digitize(shifted, edges)
    share, mean = (np.bincount(number, values) / np.bincount(number) for values in (target[kept], shifted))
    assert mean == pytest.approx(share, abs=0.01)
    assert abs(probability[kept].mean() - target[kept].mean()) > 0.1, "without the shift it is wrong"


def test_a_prior_shift_and_back_changes_nothing() -> None:
    probability = np.linspace(0.01, 0.99, 9)
    assert prior_shift(prior_shift(probability, 0.1, 0.7), 0.7, 0.1) == pytest.approx(probability)


@pytest.mark.parametrize(("trained", "deployed"), [(0.1, 0.0), (0.1, 1.5), (math.nan, 0.1)])
def test_a_prevalence_outside_0_to_1_is_refused(trained: float, deployed: float) -> None:
    with pytest.raises(UserError, match="out of range"):
        prior_shift([0.5], trained, deployed)
