"""The closest pairs across folds, against all pairs compared one by one."""

import itertools

import numpy as np
import pytest

from evaluation import neighbours
from evaluation.neighbours import closest_across


def naive(vectors: np.ndarray, fold: np.ndarray) -> list[tuple[float, int, int]]:
    def distance(one: np.ndarray, other: np.ndarray) -> float:
        return float(1 - one @ other / np.linalg.norm(one) / np.linalg.norm(other))

    pairs = itertools.combinations(range(len(vectors)), 2)
    return sorted((distance(vectors[one], vectors[two]), one, two) for one, two in pairs if fold[one] != fold[two])


@pytest.mark.parametrize("block", [7, 64, 4096])
def test_the_closest_pairs_are_those_of_a_naive_search(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "_BLOCK", block)
    rng = np.random.default_rng(0)
    vectors, fold = rng.normal(size=(90, 5)), rng.integers(3, size=90)
    found, reference = closest_across(vectors, fold, 20), naive(vectors, fold)[:20]
    pairs = list(zip(found.first.tolist(), found.second.tolist(), strict=True))
    assert pairs == [(one, two) for _, one, two in reference]
    np.testing.assert_allclose(found.distance, [distance for distance, _, _ in reference], atol=1e-6)


def test_there_are_no_more_pairs_than_folds_allow() -> None:
    vectors = np.random.default_rng(0).normal(size=(4, 3))
    assert len(closest_across(vectors, [0, 0, 0, 1], 20).first) == 3
    assert len(closest_across(vectors, [0, 0, 0, 0], 20).first) == 0
    assert len(closest_across(vectors[:1], [0], 20).first) == 0


@pytest.mark.parametrize("wrong", [0.0, np.nan])
def test_an_embedding_without_direction_is_refused(wrong: float) -> None:
    vectors = np.ones((3, 4))
    vectors[1] = wrong
    with pytest.raises(ValueError, match="row 1 is not finite or all 0"):
        closest_across(vectors, [0, 1, 2], 5)
