import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from evaluation.ranking import (
    Counts,
    Floats,
    Ranking,
    auc_of,
    average_precision_of,
    partial_auc_of,
    precision_at,
    sensitivity_at,
)

# Few distinct scores, so that ties within and across the classes are the rule; weights of 0 drop samples.
ROWS = st.lists(st.tuples(st.booleans(), st.integers(-3, 3), st.integers(0, 3)), min_size=4, max_size=40)
WEIGHTED = ROWS.filter(lambda rows: len({target for target, _, weight in rows if weight}) == 2)


def columns(rows: list[tuple[bool, int, int]]) -> tuple[np.ndarray, Floats, Floats]:
    target, score, weight = zip(*rows, strict=True)
    return np.array(target), np.array(score, dtype=np.float64), np.array(weight, dtype=np.float64)


def counted(target: np.ndarray, score: Floats, weight: Floats | None = None) -> Counts:
    """Each sample a group of its own."""
    times = np.ones(len(target)) if weight is None else weight
    return Ranking(target, score, np.arange(len(target))).counts(times[:, None])


def case(samples: int = 500, step: float = 0.0) -> tuple[np.ndarray, Floats]:
    rng = np.random.default_rng(0)
    target = rng.random(samples) < 0.2
    score = target + rng.normal(size=samples)
    return target, np.round(score / step) * step if step else score


@given(WEIGHTED)
def test_auc_and_average_precision_are_those_of_sklearn(rows: list[tuple[bool, int, int]]) -> None:
    target, score, weight = columns(rows)
    counts = counted(target, score, weight)
    assert auc_of(counts)[0] == pytest.approx(roc_auc_score(target, score, sample_weight=weight))
    expected = average_precision_score(target, score, sample_weight=weight)
    assert average_precision_of(counts)[0] == pytest.approx(expected)


@given(WEIGHTED, st.floats(0.0, 0.95))
def test_the_partial_auc_is_that_of_sklearn_with_the_classes_exchanged(
    rows: list[tuple[bool, int, int]], least: float
) -> None:
    """roc_auc_score(max_fpr) scales the area to 0.5 for no skill and 1 for the best (McClish 1989)."""
    target, score, weight = columns(rows)
    width = 1 - least
    scaled = roc_auc_score(~target, -score, max_fpr=width, sample_weight=weight)
    expected = width**2 / 2 + (2 * scaled - 1) * (width - width**2 / 2)
    assert partial_auc_of(counted(target, score, weight), least)[0] == pytest.approx(expected)


@pytest.mark.parametrize("step", [0.0, 0.5])
def test_the_partial_auc_is_the_area_above_the_line(step: float) -> None:
    target, score = case(step=step)
    fpr, tpr, _ = roc_curve(target, score)
    grid = np.linspace(0, 1, 200_001)
    area = np.trapezoid(np.maximum(np.interp(grid, fpr, tpr) - 0.8, 0), grid)
    assert partial_auc_of(counted(target, score))[0] == pytest.approx(area, abs=1e-5)


def test_the_partial_auc_lies_between_those_of_no_skill_and_perfection() -> None:
    target = np.arange(50) < 10
    assert partial_auc_of(counted(target, np.zeros(50)))[0] == pytest.approx(0.02)
    assert partial_auc_of(counted(target, target.astype(float)))[0] == pytest.approx(0.2)


@pytest.mark.parametrize("step", [0.0, 0.5])
def test_the_curves_are_those_of_sklearn(step: float) -> None:
    target, score = case(step=step)
    grid = np.linspace(0, 1, 201)
    fpr, tpr, _ = roc_curve(target, score, drop_intermediate=False)
    assert sensitivity_at(counted(target, score), grid)[0] == pytest.approx(np.interp(grid, fpr, tpr))
    precision, recall, _ = precision_recall_curve(target, score)  # recall falls with the threshold's rise
    reached = [precision[:-1][recall[:-1] >= wanted - 1e-12][-1] for wanted in grid]
    assert precision_at(counted(target, score), grid)[0] == pytest.approx(reached)


def test_many_weightings_of_groups_are_those_of_their_samples() -> None:
    target, score = case(step=0.25)
    group = np.random.default_rng(1).integers(0, 60, len(target))
    score[::9] = np.nan
    times = np.random.default_rng(2).integers(0, 3, (60, 7)).astype(np.float64)
    together, known = Ranking(target, score, group).counts(times), ~np.isnan(score)
    for draw in range(7):
        alone = counted(target[known], score[known], times[group[known], draw])
        for figure in (auc_of, average_precision_of, partial_auc_of):
            assert figure(together)[draw] == pytest.approx(figure(alone)[0]), figure.__name__


@pytest.mark.parametrize("target", [[True, True], [False, False]])
def test_one_class_has_no_figures(target: list[bool]) -> None:
    counts = counted(np.array(target), np.array([0.1, 0.2]))
    for figure in (auc_of, average_precision_of, partial_auc_of):
        assert math.isnan(figure(counts)[0]), figure.__name__
    for curve in (sensitivity_at, precision_at):
        assert np.isnan(curve(counts, np.array([0.5]))).all(), curve.__name__
