import json
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from simulated import calibrated_case

from evaluation.discrimination import sensitivity, specificity, wilson_interval
from evaluation.operating import OperatingPoint, operating_point, threshold_for, threshold_for_specificity
from evaluation.stability import stability


@given(st.integers(1, 60), st.sampled_from([0.8, 0.9, 0.95, 1.0]), st.integers(0, 5))
def test_the_threshold_is_the_largest_that_reaches_the_sensitivity(positives: int, wanted: float, digits: int) -> None:
    rng = np.random.default_rng(positives)
    target = np.arange(positives + 30) < positives
    score = np.round(rng.random(len(target)), digits)
    found = threshold_for(target, score, wanted)
    assert sensitivity(target, score, found) >= wanted - 1e-9
    assert sensitivity(target, score, np.nextafter(found, 2)) < wanted - 1e-9


@given(st.integers(1, 60), st.sampled_from([0.8, 0.9, 0.95, 1.0]), st.integers(0, 5))
def test_the_threshold_is_the_smallest_that_reaches_the_specificity(negatives: int, wanted: float, digits: int) -> None:
    rng = np.random.default_rng(negatives)
    target = np.arange(negatives + 30) >= negatives
    score = np.round(rng.random(len(target)), digits)
    found = threshold_for_specificity(target, score, wanted)
    assert specificity(target, score, found) >= wanted - 1e-9
    assert specificity(target, score, np.nextafter(found, -2)) < wanted - 1e-9


def test_no_negatives_or_a_specificity_above_1_is_refused() -> None:
    for target, wanted in ((np.ones(3, dtype=bool), 0.9), (np.zeros(3, dtype=bool), 1.1)):
        with pytest.raises(ValueError, match="no threshold"):
            threshold_for_specificity(target, np.arange(3.0), wanted)


@pytest.mark.parametrize(("positives", "needed"), [(20, 19), (40, 38), (100, 95)])
def test_a_whole_number_of_positives_is_not_rounded_up(positives: int, needed: int) -> None:
    target, score = np.ones(positives, dtype=bool), np.arange(positives) / positives
    assert (score >= threshold_for(target, score, 0.95)).sum() == needed


def test_no_positives_or_a_sensitivity_above_1_is_refused() -> None:
    for target, wanted in ((np.zeros(3, dtype=bool), 0.9), (np.ones(3, dtype=bool), 1.1)):
        with pytest.raises(ValueError, match="no threshold gives"):
            threshold_for(target, np.zeros(3), wanted)


def test_a_point_tells_its_own_rates_and_those_held_out() -> None:
    target, score = calibrated_case(500)
    held_out = score >= 0.3
    point = operating_point(target, score, 0.9, 0.1, held_out)
    assert point.sensitivity.value == sensitivity(target, score, 0.1)
    assert point.specificity.value == specificity(target, score, 0.1)
    assert point.held_out_sensitivity is not None
    assert point.held_out_sensitivity.value == sensitivity(target, score, 0.3)
    assert point.held_out_specificity is not None
    assert point.held_out_specificity.value == specificity(target, score, 0.3)
    assert OperatingPoint.from_dict(json.loads(json.dumps(asdict(point)))) == point
    alone = operating_point(target, score, 0.9, 0.1)
    assert alone.held_out_specificity is None
    assert OperatingPoint.from_dict(asdict(alone)) == alone


@given(st.integers(1, 300), st.integers(0, 300))
def test_wilsons_interval_is_that_of_scipy(total: int, successes: int) -> None:
    successes = min(successes, total)
    expected = binomtest(successes, total).proportion_ci(method="wilson")
    found = wilson_interval(successes, total)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-6)
    assert found.value == successes / total


def test_no_trials_have_no_interval() -> None:
    assert np.isnan(wilson_interval(0, 0).low)


def naive(scores: np.ndarray, limits: list[float], decision: np.ndarray) -> tuple[int, float, float]:
    flips, against = [], []
    for image in range(scores.shape[1]):
        decided = [score >= limit for score, limit in zip(scores[:, image], limits, strict=True) if not np.isnan(score)]
        if len(decided) > 1:
            flips.append(len(set(decided)) > 1)
            against.append(np.mean([each != decision[image] for each in decided]))
    return len(flips), float(np.mean(flips)), float(np.mean(against))


@pytest.mark.parametrize("absent", [0.0, 0.5])
def test_flips_are_counted_image_by_image(absent: float) -> None:
    rng = np.random.default_rng(0)
    scores = rng.random((4, 200)) * 0.4 + rng.random(200) * 0.6
    scores[rng.random(scores.shape) < absent] = np.nan
    limits, decision = [0.4, 0.5, 0.5, 0.6], rng.random(200) < 0.5
    found = stability(scores, limits, decision)
    expected = naive(scores, limits, decision)
    assert (found.images, found.flips.value, found.against_mean.value) == pytest.approx(expected)
    assert stability(scores, 0.5, decision) == stability(scores, [0.5] * 4, decision)


def test_views_that_agree_never_flip() -> None:
    scores = np.tile(np.linspace(0, 1, 50), (8, 1))
    found = stability(scores, 0.5, scores[0] >= 0.5)
    assert (found.flips.value, found.against_mean.value) == (0, 0)
    assert found.flips.high > 0


def test_a_decision_of_other_images_is_refused() -> None:
    with pytest.raises(ValueError, match="expected"):
        stability(np.zeros((2, 5)), 0.5, np.zeros(4, dtype=bool))
