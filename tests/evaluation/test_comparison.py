from dataclasses import replace

import numpy as np
import pytest
from simulated import out_of_fold, without_fold

from evaluation.comparison import against_ensemble
from evaluation.discrimination import paired_auc_difference


def test_each_model_is_held_against_the_ensemble_on_the_rows_it_covers() -> None:
    oof = without_fold(out_of_fold(1000, noise=(0.3, 2.0)), 1, [0])
    raw = np.nanmean(oof.scores, axis=0)
    found = {(each.name, each.part): each for each in against_ensemble(oof, raw, draws=300)}
    assert set(found) == {(name, part) for name in oof.models for part in ("merged", "2020", "2019")}
    for (name, part), each in found.items():
        score = oof.scores[oof.models.index(name)]
        rows = ~np.isnan(score) & ((oof.source == int(part)) if part != "merged" else True)
        expected = paired_auc_difference(oof.target[rows], score[rows], raw[rows])
        assert (each.rows, each.positives) == (rows.sum(), oof.target[rows].sum())
        assert each.delong == expected
        assert each.over_groups.low < expected.value < each.over_groups.high
    assert not found["model1", "merged"].tie
    assert found["model1", "merged"].over_groups.high < 0


def test_the_noise_floor_is_the_standard_error_and_what_four_of_five_would_see() -> None:
    """Each row a group of its own: DeLong's standard error of the difference holds, and 1.96 + 0.84 of them."""
    oof = out_of_fold(2000, noise=(0.5, 1.0))
    raw = oof.scores.mean(axis=0)
    each = against_ensemble(replace(oof, group=np.arange(2000)), raw, draws=1500)[0]
    error = (each.delong.high - each.delong.low) / (2 * 1.96)
    assert each.detectable == pytest.approx(2.8 * error, rel=0.08)


def test_a_part_without_both_classes_is_left_out_and_a_single_model_ties_with_itself() -> None:
    oof = out_of_fold(400, noise=(0.5,))
    oof = replace(oof, target=oof.target & (oof.source == 2020))
    found = against_ensemble(oof, oof.scores[0], draws=50)
    assert [each.part for each in found] == ["merged", "2020"]
    assert all(each.tie for each in found)
