"""The density against scipy's and scikit-learn's, and false alarms that are counted on pictures that set nothing."""

import json

import numpy as np
import pytest
from scipy.stats import binomtest, multivariate_normal
from sklearn.mixture import GaussianMixture

from evaluation.familiarity import Familiarity


def drawn(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """Two clusters of correlated statistics with heavy tails, float64 [rows, columns]."""
    rng = np.random.default_rng(seed)
    tails = rng.standard_t(5, (rows, columns)) @ np.random.default_rng(99).normal(size=(columns, columns))
    return tails + np.where(np.arange(rows) % 3, 0.0, 9.0)[:, None]


def names(columns: int) -> list[str]:
    return [f"statistic {number}" for number in range(columns)]


def fitted(values: np.ndarray, fold: np.ndarray, rate: float = 0.01, clusters: int = 2) -> Familiarity:
    return Familiarity.fit(values, fold, names(values.shape[1]), false_alarm_rate=rate, clusters=clusters)


def test_one_cluster_is_the_normal_distribution_of_scipy() -> None:
    values, other = drawn(500, 6), drawn(40, 6, seed=1)
    found = fitted(values, np.arange(500) % 5, clusters=1)
    floor = 1e-3 * np.diag(values.var(axis=0))
    reference = multivariate_normal(values.mean(axis=0), np.cov(values.T, bias=True) + floor)
    np.testing.assert_allclose(found.surprise(other), -reference.logpdf(other))


def test_surprise_is_that_of_scikit_learns_mixture_and_the_threshold_its_quantile() -> None:
    values, other = drawn(500, 4), drawn(40, 4, seed=1)
    found = fitted(values, np.arange(500) % 5, rate=0.05)
    scale = values.std(axis=0)
    reference = GaussianMixture(2, reg_covar=1e-3, max_iter=1000, random_state=0).fit(values / scale)
    expected = np.log(scale).sum() - reference.score_samples(np.concatenate([values, other]) / scale)
    np.testing.assert_allclose(found.surprise(other), expected[500:])
    assert found.threshold == pytest.approx(np.quantile(expected[:500], 0.95))
    assert found.unusual(values).sum() == 25
    np.testing.assert_array_equal(found.unusual(other), expected[500:] > found.threshold)


def test_false_alarms_of_a_fold_are_those_of_a_fit_without_it() -> None:
    values, fold = drawn(400, 4), np.arange(400) % 4
    found = fitted(values, fold, rate=0.05)
    alarms = 0
    for one in range(4):
        rest = fitted(values[fold != one], np.arange(300) % 2, rate=0.05)
        alarms += int(rest.unusual(values[fold == one]).sum())
    assert found.false_alarms.value == alarms / 400
    interval = binomtest(alarms, 400).proportion_ci(method="wilson")
    assert (found.false_alarms.low, found.false_alarms.high) == (interval.low, interval.high)


def test_pictures_of_the_fold_left_out_do_not_excuse_themselves() -> None:
    values, fold = drawn(600, 4), np.arange(600) % 3
    values[fold == 0] += 1000.0
    assert fitted(values, fold).false_alarms.value >= 1 / 3


def test_with_few_pictures_the_honest_rate_is_far_above_the_one_asked_for() -> None:
    values, fold = drawn(80, 15), np.arange(80) % 5
    found = fitted(values, fold)
    assert found.unusual(values).mean() <= 1 / 80
    assert found.false_alarms.low > 0.03


def test_with_many_pictures_it_is_the_one_asked_for() -> None:
    found = fitted(drawn(20_000, 8), np.arange(20_000) % 5)
    assert found.false_alarms.low < 0.01 < found.false_alarms.high
    assert found.pictures == 20_000


def test_what_lies_between_two_clusters_is_unusual() -> None:
    values = np.random.default_rng(0).normal(size=(1000, 3)) + np.where(np.arange(1000) % 2, 10.0, -10.0)[:, None]
    assert fitted(values, np.arange(1000) % 5).unusual([[0, 0, 0], [10, 10, 10], [-10, -10, -10]]).tolist() == [1, 0, 0]


def test_what_never_varied_is_unusual_when_it_does_and_breaks_nothing() -> None:
    values = np.column_stack([drawn(300, 3), np.full(300, 0.5)])
    found = fitted(values, np.arange(300) % 3)
    assert found.unusual(values).sum() == 3
    assert found.unusual(values + np.array([0, 0, 0, 0.5])).all()


def test_a_record_in_json_judges_as_before() -> None:
    values = drawn(300, 4)
    found = fitted(values, np.arange(300) % 3)
    again = Familiarity.from_dict(json.loads(json.dumps(found.to_dict())))
    np.testing.assert_array_equal(again.surprise(values), found.surprise(values))
    assert again.to_dict() == found.to_dict()
    assert (again.names, again.false_alarms) == (found.names, found.false_alarms)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"fold": np.zeros(50)}, "two or more folds"),
        ({"fold": np.arange(49) % 2}, "two or more folds"),
        ({"statistics": np.full((50, 3), np.nan)}, "not finite, first in row 0"),
        ({"statistics": np.zeros((50, 4))}, r"wanted \[N, 3\]"),
        ({"statistics": np.zeros(50)}, r"wanted \[N, 3\]"),
        ({"false_alarm_rate": 1.0}, "false_alarm_rate=1.0"),
        ({"fold": np.arange(50) > 10}, "11 pictures are too few for 3 x 3 statistics"),
    ],
)
def test_wrong_arrays_are_refused(change: dict[str, object], said: str) -> None:
    given = {"statistics": drawn(50, 3), "fold": np.arange(50) % 5, "names": names(3), **change}
    with pytest.raises(ValueError, match=said):
        Familiarity.fit(**given)  # type: ignore[arg-type]
