import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulated import calibrated_case
from sklearn.metrics import brier_score_loss

from evaluation.brier import decomposition

ROWS = st.lists(st.tuples(st.booleans(), st.floats(0, 1)), min_size=1, max_size=60)


@given(ROWS, st.integers(1, 12))
def test_the_terms_sum_to_the_brier_score(rows: list[tuple[bool, float]], bins: int) -> None:
    target, probability = (np.array(each) for each in zip(*rows, strict=True))
    found = decomposition(target, probability, bins)
    assert found.brier == pytest.approx(np.square(probability - target).mean())
    total = found.reliability - found.resolution + found.uncertainty + found.within
    assert total == pytest.approx(found.brier, abs=1e-12)


def test_bins_of_equal_probabilities_give_murphys_three_terms() -> None:
    """Murphy 1973, value by value, where each bin holds a single probability."""
    rng = np.random.default_rng(0)
    values = np.array([0.1, 0.3, 0.5, 0.9])
    probability = np.repeat(values, 50)
    target = rng.random(200) < probability
    shares = np.array([target[probability == value].mean() for value in values])
    found = decomposition(target, probability, bins=4)
    assert found.within == pytest.approx(0, abs=1e-12)
    assert found.reliability == pytest.approx(np.square(values - shares).mean())
    assert found.resolution == pytest.approx(np.square(shares - target.mean()).mean())
    assert found.brier == pytest.approx(brier_score_loss(target, probability))


def test_wrong_probabilities_cost_reliability_and_keep_resolution() -> None:
    target, probability = calibrated_case(4000)
    right, wrong = decomposition(target, probability), decomposition(target, probability**3)
    assert wrong.reliability > 10 * right.reliability
    assert wrong.resolution == pytest.approx(right.resolution)
