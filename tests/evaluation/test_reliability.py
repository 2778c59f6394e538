import math

import numpy as np
import pytest
from scipy.special import expit, logit
from simulated import calibrated_case
from sklearn.metrics import brier_score_loss

from evaluation.reliability import (
    brier_skill,
    calibration_error,
    calibration_in_the_large,
    ece_if_perfect,
    recalibration,
    reliability,
    reliability_bins,
)


def test_right_probabilities_have_slope_1_intercept_0_and_an_ordinary_ece() -> None:
    inside = np.zeros(4)
    for seed in range(40):
        target, probability = calibrated_case(1500, seed)
        found = reliability(target, probability, np.arange(1500), draws=100)
        right = ((found.slope, 1), (found.intercept, 0), (found.in_the_large, 0))
        inside += [*(interval.low <= value <= interval.high for interval, value in right), found.ece <= found.ece_limit]
    assert (inside / 40 >= 0.85).all(), inside


def test_overconfident_probabilities_show_in_slope_and_ece() -> None:
    target, probability = calibrated_case(4000)
    found = reliability(target, expit(2 * logit(probability)), np.arange(4000), draws=100)
    assert found.slope.high < 0.65
    assert found.slope.value == pytest.approx(0.5, abs=0.05)
    assert found.ece > found.ece_limit > found.ece_if_perfect


def test_probabilities_too_low_show_in_the_large() -> None:
    target, probability = calibrated_case(4000)
    _, intercept, in_the_large = recalibration(target, expit(logit(probability) - 1), np.arange(4000))
    assert in_the_large.value == pytest.approx(1, abs=0.15)
    assert intercept.low > 0
    assert in_the_large.low > 0


def test_the_intervals_agree_with_the_bootstrap_over_groups() -> None:
    """Groups of four with one target each: an interval for independent samples would be half as wide."""
    target, probability = (np.repeat(part, 4) for part in calibrated_case(300))
    group = np.repeat(np.arange(300), 4)
    found = recalibration(target, probability, group)
    rng, drawn = np.random.default_rng(0), []
    for _ in range(300):
        rows = (4 * rng.integers(0, 300, 300)[:, None] + np.arange(4)).ravel()
        drawn.append([each.value for each in recalibration(target[rows], probability[rows], group[rows])])
    for estimate, spread in zip(found, np.std(drawn, axis=0), strict=True):
        assert (estimate.high - estimate.low) / (2 * 1.96) == pytest.approx(spread, rel=0.2)
    apart = recalibration(target, probability, np.arange(1200))
    assert apart[0].high - apart[0].low < 0.6 * (found[0].high - found[0].low)


def test_the_skill_is_that_of_the_brier_scores() -> None:
    target, probability = calibrated_case(800)
    found = brier_skill(target, probability, np.arange(800) // 2, draws=200)
    prevalence = np.full(800, target.mean())
    expected = 1 - brier_score_loss(target, probability) / brier_score_loss(target, prevalence)
    assert found.value == pytest.approx(expected)
    assert 0 < found.low < found.value < found.high
    assert brier_skill(target, prevalence, np.arange(800), draws=10).value == pytest.approx(0, abs=1e-12)
    assert reliability(target, probability, np.arange(800), draws=10).brier == pytest.approx(
        brier_score_loss(target, probability)
    )


def test_the_calibration_error_is_the_mean_over_bins() -> None:
    target, probability = calibrated_case(95)
    order = np.argsort(probability)
    gaps = [len(part) * abs(probability[part].mean() - target[part].mean()) for part in np.array_split(order, 5)]
    assert calibration_error(target, probability, bins=5) == pytest.approx(sum(gaps) / 95)


def test_what_a_perfect_model_would_show_is_what_simulated_ones_show() -> None:
    _, probability = calibrated_case(500)
    rng = np.random.default_rng(7)
    shown = [calibration_error(rng.random(500) < probability, probability) for _ in range(400)]
    found = ece_if_perfect(probability, draws=400)
    assert found.mean() == pytest.approx(np.mean(shown), rel=0.05)
    assert np.quantile(found, 0.95) == pytest.approx(np.quantile(shown, 0.95), rel=0.1)


def test_probabilities_that_do_not_vary_have_no_slope() -> None:
    found = recalibration(np.array([True, False, True]), np.full(3, 0.5), np.arange(3))
    assert all(math.isnan(estimate.value) for estimate in found)


def test_classes_that_do_not_overlap_give_a_slope_without_bounds() -> None:
    target = np.arange(40) >= 20
    slope, _, _ = recalibration(target, np.linspace(0.1, 0.9, 40), np.arange(40))
    assert slope.value > 10
    assert not slope.high - slope.low < 10  # wide or NaN


def test_the_bins_are_the_parts_of_the_sorted_probabilities() -> None:
    target, probability = calibrated_case(95)
    parts = np.array_split(np.argsort(probability), 5)
    found = reliability_bins(target, probability, np.arange(95) // 2, bins=5)
    assert [each.samples for each in found] == [len(part) for part in parts]
    assert [each.positives for each in found] == [target[part].sum() for part in parts]
    assert [each.groups for each in found] == [len(set(part // 2)) for part in parts]
    assert [each.predicted for each in found] == pytest.approx([probability[part].mean() for part in parts])
    assert [each.observed.value for each in found] == pytest.approx([target[part].mean() for part in parts])


def test_copies_of_a_sample_do_not_narrow_a_bin() -> None:
    target, probability = calibrated_case(200)
    once = reliability_bins(target, probability, np.arange(200), bins=4)
    copied = reliability_bins(*(np.repeat(each, 5) for each in (target, probability)), np.repeat(np.arange(200), 5), 4)
    for ours, theirs in zip(copied, once, strict=True):
        bounds = (theirs.observed.value, theirs.observed.low, theirs.observed.high)
        assert (ours.observed.value, ours.observed.low, ours.observed.high) == pytest.approx(bounds)


def test_the_calibration_in_the_large_is_the_shift_that_makes_the_sums_equal() -> None:
    target, probability = calibrated_case(1000)
    low = expit(logit(probability) - 1)
    found = calibration_in_the_large(target, low, np.arange(1000))
    assert expit(logit(low) + found.value).sum() == pytest.approx(target.sum())
    assert math.isnan(calibration_in_the_large(np.ones(3, dtype=bool), low[:3], np.arange(3)).value)
