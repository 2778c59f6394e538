import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import expit, logit
from scipy.stats import binomtest
from sklearn import metrics as sklearn_metrics
from sklearn.metrics import roc_auc_score

from evaluation.discrimination import (
    auc,
    auc_interval,
    log_loss,
    paired_auc_difference,
    sensitivity,
    source_aucs,
    specificity,
)

Floats = NDArray[np.float64]
ONE_SIGMA = 2 * NormalDist().cdf(1) - 1


def with_both_classes(rows: list[tuple[int, int, int]]) -> bool:
    return 2 <= sum(row[0] for row in rows) <= len(rows) - 2


# Few distinct scores, so that ties within and across the classes are the rule.
TIED = st.lists(st.tuples(st.integers(0, 1), st.integers(-3, 3), st.integers(-3, 3)), min_size=4, max_size=40)
COLUMNS = TIED.filter(with_both_classes).map(lambda rows: np.array(rows, dtype=np.float64).T)


def simulated(samples: int = 300, seed: int = 0) -> tuple[Floats, Floats, Floats]:
    rng = np.random.default_rng(seed)
    target = (rng.random(samples) < 0.3).astype(np.float64)
    shared = rng.normal(size=samples)
    a = target + shared + rng.normal(size=samples)
    b = 0.5 * target + shared + rng.normal(size=samples)
    return target, a, b


def naive_delong(target: Floats, scores: Floats) -> tuple[Floats, Floats]:
    """DeLong, DeLong, Clarke-Pearson 1988, as written: every pair of a positive and a negative."""
    positive, negative = scores[:, target == 1], scores[:, target == 0]
    kernel = (positive[:, :, None] > negative[:, None]) + 0.5 * (positive[:, :, None] == negative[:, None])
    covariance = np.cov(kernel.mean(axis=2)) / positive.shape[1] + np.cov(kernel.mean(axis=1)) / negative.shape[1]
    return kernel.mean(axis=(1, 2)), covariance


@given(COLUMNS)
def test_auc_equals_sklearn(columns: Floats) -> None:
    target, score, _ = columns
    assert auc(target, score) == pytest.approx(roc_auc_score(target, score))


@given(COLUMNS)
def test_auc_depends_on_the_order_only_and_is_reversed_with_it(columns: Floats) -> None:
    target, score, _ = columns
    assert auc(target, np.exp(score)) == auc(target, score)
    assert auc(target, -score) == pytest.approx(1 - auc(target, score))


@given(COLUMNS)
def test_delong_equals_the_naive_form(columns: Floats) -> None:
    target, a, b = columns
    values, covariance = naive_delong(target, columns[1:])
    single = auc_interval(target, a, level=ONE_SIGMA)
    assert single.value == pytest.approx(values[0])
    if 0 < values[0] < 1:
        half = math.sqrt(covariance[0, 0]) / (values[0] * (1 - values[0]))
        assert (single.low, single.high) == pytest.approx(tuple(expit(logit(values[0]) + np.array([-half, half]))))
    difference = paired_auc_difference(target, a, b, level=ONE_SIGMA)
    variance = max(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1], 0)
    assert difference.value == pytest.approx(values[0] - values[1])
    assert difference.high - difference.value == pytest.approx(math.sqrt(variance), abs=1e-4)


def test_intervals_agree_with_the_bootstrap() -> None:
    target, a, b = simulated()
    rng = np.random.default_rng(1)
    rows = [rng.integers(0, len(target), len(target)) for _ in range(1000)]
    singles = [auc(target[row], a[row]) for row in rows]
    differences = [auc(target[row], a[row]) - auc(target[row], b[row]) for row in rows]
    for estimate, draws in (
        (auc_interval(target, a), singles),
        (paired_auc_difference(target, a, b), differences),
    ):
        assert (estimate.high - estimate.low) / (2 * 1.96) == pytest.approx(np.std(draws), rel=0.1)


@pytest.mark.parametrize(("positives", "negatives", "truth"), [(117, 6508, 0.93), (50, 500, 0.85)])
def test_interval_covers_the_truth_at_its_nominal_level(positives: int, negatives: int, truth: float) -> None:
    """Binormal scores: a positive is N(d, 1), a negative N(0, 1), and the AUC is P(N(d, 2) > 0)."""
    rng, distance = np.random.default_rng(0), math.sqrt(2) * NormalDist().inv_cdf(truth)
    target = np.arange(positives + negatives) < positives
    found = [auc_interval(target, rng.normal(size=len(target)) + distance * target) for _ in range(1000)]
    assert 0.93 <= np.mean([each.low <= truth <= each.high for each in found]) <= 0.97


def test_classes_that_do_not_overlap_have_an_interval_of_independent_pairs() -> None:
    """Five positives and nine negatives, all in order: five pairs that share no sample, as in five heads of five."""
    target = np.arange(14) >= 9
    right, wrong = auc_interval(target, np.arange(14)), auc_interval(target, -np.arange(14))
    assert right.value == 1
    assert (right.low, right.high) == pytest.approx(tuple(binomtest(5, 5).proportion_ci(method="exact")))
    assert (wrong.value, wrong.low, wrong.high) == pytest.approx((0, 0, 1 - right.low))


def test_the_interval_of_an_auc_near_1_stays_below_1() -> None:
    found = auc_interval([*[0] * 20, 1, 0, 1, 1, 1, 1], np.arange(26))
    assert 0.5 < found.low < found.value < found.high < 1


def test_difference_is_tighter_than_independent_intervals_and_changes_sign() -> None:
    target, a, b = simulated()
    forward, backward = paired_auc_difference(target, a, b), paired_auc_difference(target, b, a)
    width = [interval.high - interval.low for interval in (auc_interval(target, a), auc_interval(target, b))]
    assert forward.high - forward.low < math.hypot(*width)
    assert (forward.value, forward.low, forward.high) == pytest.approx((-backward.value, -backward.high, -backward.low))


def test_a_score_does_not_differ_from_itself() -> None:
    target, a, _ = simulated()
    difference = paired_auc_difference(target, a, a)
    assert (difference.value, difference.low, difference.high) == pytest.approx((0, 0, 0), abs=1e-7)


def test_a_missing_class_gives_nan() -> None:
    assert math.isnan(auc([1, 1], [0.1, 0.2]))
    assert math.isnan(auc([], []))
    assert math.isnan(auc_interval([0, 0], [0.1, 0.2]).value)
    assert math.isnan(paired_auc_difference([0, 0], [0.1, 0.2], [0.2, 0.1]).value)
    assert math.isnan(sensitivity([0, 0], [0.1, 0.2], 0.5))
    assert math.isnan(specificity([1, 1], [0.1, 0.2], 0.5))


def test_a_single_positive_gives_a_value_without_bounds() -> None:
    estimate = auc_interval([1, 0, 0], [0.9, 0.1, 0.95])
    assert estimate.value == 0.5
    assert math.isnan(estimate.low)
    assert math.isnan(estimate.high)


@pytest.mark.parametrize("numeric", [True, False])
def test_source_aucs_are_within_and_over_the_sources(numeric: bool) -> None:
    target, a, _ = simulated()
    year = np.where(np.arange(len(target)) % 2 == 0, 2019, 2020)
    found = source_aucs(target, a, year if numeric else year.astype(str))
    assert found == pytest.approx(
        {
            "merged": roc_auc_score(target, a),
            "2019": roc_auc_score(target[::2], a[::2]),
            "2020": roc_auc_score(target[1::2], a[1::2]),
        }
    )


def test_an_absent_source_is_nan_and_an_unknown_one_is_refused() -> None:
    assert math.isnan(source_aucs([0, 1], [0.1, 0.2], [2020, 2020])["2019"])
    with pytest.raises(ValueError, match="source holds 2018"):
        source_aucs([0, 1], [0.1, 0.2], [2018, 2020])


def test_a_score_at_the_threshold_counts_as_positive() -> None:
    target, probability = [1, 1, 0, 0, 0], [0.5, 0.4, 0.5, 0.49, 0.1]
    assert sensitivity(target, probability, 0.5) == 0.5
    assert specificity(target, probability, 0.5) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("target", "score", "message"),
    [
        ([0, 1], [0.1, 0.2, 0.3], "score has 3 values, target 2"),
        ([0, 1], [0.1, math.nan], "score holds NaN, first at row 1"),
        ([math.nan, 1], [0.1, 0.2], "target holds NaN, first at row 0"),
        ([0, 2], [0.1, 0.2], "target holds values other than 0 and 1"),
        ([0, 1], [[0.1, 0.2]], "score has shape"),
    ],
)
def test_bad_input_is_named(target: list[float], score: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        auc(target, score)


def test_a_level_outside_0_to_1_is_refused() -> None:
    with pytest.raises(ValueError, match="level=95"):
        auc_interval([0, 0, 1, 1], [0.1, 0.2, 0.3, 0.15], level=95)


def test_log_loss_is_that_of_sklearn_and_finite_at_certainty() -> None:
    rng = np.random.default_rng(0)
    target, probability = rng.integers(0, 2, 200), rng.random(200)
    assert log_loss(target, probability) == pytest.approx(sklearn_metrics.log_loss(target, probability))
    assert np.isfinite(log_loss([0, 1], [1.0, 0.0]))
