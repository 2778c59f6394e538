from statistics import NormalDist

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from evaluation.bootstrap import (
    auc_difference_over_seeds,
    auc_statistic,
    bootstrapped,
    bootstrapped_sums,
    percentile_interval,
)


def case(samples: int = 400, seeds: int = 3, gap: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    target = (rng.random(samples) < 0.3).astype(int)
    a, b = (1.0 * target + rng.normal(size=(seeds, samples)) for _ in range(2))
    return target, a + gap * target, b, np.arange(samples) // 2


def test_the_value_is_the_difference_of_mean_aucs() -> None:
    target, a, b, group = case(gap=0.5)
    expected = np.mean([roc_auc_score(target, row) for row in a]) - np.mean([roc_auc_score(target, row) for row in b])
    found = auc_difference_over_seeds(target, a, b, group, draws=200)
    assert found.value == pytest.approx(expected)
    assert 0 < found.low < found.value < found.high


def test_the_interval_of_equal_systems_includes_zero() -> None:
    target, a, b, group = case()
    found = auc_difference_over_seeds(target, a, b, group, draws=200)
    assert found.low < 0 < found.high


def test_larger_groups_widen_the_interval() -> None:
    """Fifty copies of each sample are no more evidence than one."""
    target, a, b, _ = case(samples=200, seeds=1)
    many = [np.repeat(part, 50, axis=-1) for part in (target, a, b)]
    once = auc_difference_over_seeds(target, a, b, np.arange(200), draws=200)
    grouped = auc_difference_over_seeds(*many, np.repeat(np.arange(200), 50), draws=200)
    apart = auc_difference_over_seeds(*many, np.arange(200 * 50), draws=200)
    assert grouped.high - grouped.low == pytest.approx(once.high - once.low)
    assert apart.high - apart.low < 0.7 * (once.high - once.low)


def test_the_auc_of_a_draw_is_that_of_the_samples_it_repeats() -> None:
    target, a, b, group = case()
    score = np.round(a[0], 1)  # many ties
    score[::7] = np.nan
    statistics = [auc_statistic(target, score, group), auc_statistic(target, b[0], group)]
    drawn = bootstrapped(statistics, group, draws=20)
    assert drawn.shape == (20, 2)
    times = bootstrapped([lambda times: times.T], group, draws=20)
    for row, weight in zip(drawn, times.repeat(2, axis=1), strict=True):
        assert weight.sum() == 400
        known = ~np.isnan(score)
        assert row[0] == pytest.approx(roc_auc_score(target[known], score[known], sample_weight=weight[known]))
        assert row[1] == pytest.approx(roc_auc_score(target, b[0], sample_weight=weight))


def test_sums_are_those_of_the_same_draws() -> None:
    target, a, _, group = case()
    times = bootstrapped([lambda times: times.T], group, draws=50, seed=3)
    columns = np.stack([target, a[0]], axis=1)
    assert bootstrapped_sums(columns, group, draws=50, seed=3) == pytest.approx(times.repeat(2, axis=1) @ columns)


def test_names_of_groups_draw_as_their_numbers_do() -> None:
    target, a, _, _ = case()
    number = np.random.default_rng(1).integers(0, 10, 400)
    by_name, by_number = (
        bootstrapped([auc_statistic(target, a[0], group)], group, draws=30)
        for group in (np.array(list("abcdefghij"), dtype=object)[number], number)
    )
    assert np.array_equal(by_name, by_number)


def test_a_draw_without_both_classes_is_left_out_of_the_interval() -> None:
    drawn = bootstrapped([auc_statistic([1, 0, 0, 0], [0.9, 0.1, 0.2, 0.95], np.arange(4))], np.arange(4), draws=200)[
        :, 0
    ]
    assert 0 < np.isnan(drawn).sum() < 200
    found = percentile_interval(2 / 3, drawn)
    assert 0 <= found.low < 2 / 3 < found.high <= 1
    assert np.isnan(percentile_interval(0.5, np.full(3, np.nan)).low)


def cohort(seed: int, patients: int = 150, images: int = 4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images of patients who score higher or lower as a whole; three in ten have melanomas."""
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(patients), images)
    target = (rng.random(patients) < 0.3)[patient] & (rng.random(len(patient)) < 0.8)
    score = 1.5 * target + rng.normal(size=patients)[patient] + 0.5 * rng.normal(size=len(patient))
    return target, score, patient


def obuchowski_error(target: np.ndarray, score: np.ndarray, group: np.ndarray) -> float:
    """Standard error of an AUC of clustered data, pair by pair: Obuchowski, Biometrics 53, 1997, 567-578."""
    positive, negative = score[target], score[~target]
    won = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)
    value, variance, sums = won.mean(), 0.0, []
    for parts, rows in ((won.mean(axis=1), target), (won.mean(axis=0), ~target)):
        sums.append(np.bincount(group[rows], parts - value, minlength=group.max() + 1))
        clusters = len(np.unique(group[rows]))
        variance += clusters / (clusters - 1) * float(np.square(sums[-1]).sum()) / rows.sum() ** 2
    groups = len(np.unique(group))
    both = groups / (groups - 1) * float(sums[0] @ sums[1])
    return float(np.sqrt(variance + 2 * both / (len(positive) * len(negative))))


def test_the_spread_of_the_draws_is_obuchowskis_standard_error() -> None:
    for seed in range(3):
        target, score, patient = cohort(seed)
        drawn = bootstrapped([auc_statistic(target, score, patient)], patient, draws=2000)[:, 0]
        assert drawn.std() == pytest.approx(obuchowski_error(target, score, patient), rel=0.08)


@pytest.mark.long
def test_patients_must_be_drawn_whole_for_an_interval_that_covers_the_truth() -> None:
    """In pairs of images of two patients, nearly all of them, a positive is N(1.5, 1.25), a negative N(0, 1.25)."""
    truth = NormalDist().cdf(1.5 / np.sqrt(2 * 1.25))
    whole, apart = [], []
    for seed in range(500):
        target, score, patient = cohort(seed)
        for covered, group in ((whole, patient), (apart, np.arange(len(patient)))):
            drawn = bootstrapped([auc_statistic(target, score, group)], group, draws=600, seed=seed)[:, 0]
            found = percentile_interval(0, drawn)
            covered.append(found.low <= truth <= found.high)
    assert 0.92 <= np.mean(whole) <= 0.97
    assert np.mean(apart) < 0.85
