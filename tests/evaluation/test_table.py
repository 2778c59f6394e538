from dataclasses import replace

import numpy as np
import pytest
from simulated import out_of_fold

from configs.errors import UserError
from evaluation.table import left_out, obstacle


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("key", "s0", r"row 3 \(s0\): its key is not unique"),
        ("fold", -1, r"row 3 \(s3\): its fold is negative"),
        ("source", 2018, r"row 3 \(s3\): its source"),
        ("target", 2, r"row 3 \(s3\): its target is neither 0 nor 1"),
        ("target", np.nan, r"row 3 \(s3\): its target is neither 0 nor 1"),
    ],
)
def test_the_first_bad_row_is_named(field: str, value: object, message: str) -> None:
    oof = out_of_fold(20)
    column = getattr(oof, field).astype(object)
    column[3] = value
    with pytest.raises(UserError, match=message):
        replace(oof, **{field: column})


@pytest.mark.parametrize(("value", "message"), [(1.5, "model1 predicts no probability"), (np.nan, "no model predicts")])
def test_a_bad_score_is_named(value: float, message: str) -> None:
    oof = out_of_fold(20)
    scores = oof.scores.copy()
    scores[1 if value == value else slice(None), 3] = value
    with pytest.raises(UserError, match=rf"row 3 \(s3\): {message}"):
        replace(oof, scores=scores)


def test_shapes_that_do_not_fit_are_refused() -> None:
    oof = out_of_fold(20)
    with pytest.raises(ValueError, match=r"scores has shape \(3, 19\)"):
        replace(oof, scores=oof.scores[:, 1:])
    with pytest.raises(ValueError, match=r"views has shape"):
        replace(oof, views=oof.scores[:, 1:])
    with pytest.raises(ValueError, match="each named once"):
        replace(oof, models=("a", "a", "b"))


def test_every_fold_is_left_out_once() -> None:
    fold = np.array([2, 0, 2, 1, 0])
    pairs = list(left_out(fold))
    assert all((others ^ rows).all() for others, rows in pairs)
    assert np.sum([rows for _, rows in pairs], axis=0).tolist() == [1] * 5
    assert all(len(set(fold[rows])) == 1 for _, rows in pairs)


def test_what_stands_in_the_way_of_cross_fitting_is_said() -> None:
    target = np.array([True, False, True, False])
    assert obstacle(target, np.array([0, 0, 1, 1])) == ""
    assert "one fold only" in obstacle(target, np.array([3, 3, 3, 3]))
    assert "without fold 5, one class" in obstacle(target, np.array([7, 5, 7, 5]))
