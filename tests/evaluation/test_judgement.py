import json
from dataclasses import replace

import numpy as np
import pytest
from simulated import out_of_fold, without_fold
from sklearn.metrics import roc_auc_score

from configs.errors import UserError
from evaluation.combination import WAYS, Combine
from evaluation.comparison import best_model
from evaluation.discrimination import auc_interval
from evaluation.judgement import judge
from evaluation.shipped import Member
from evaluation.text import lines


@pytest.mark.parametrize("combine", WAYS)
@pytest.mark.parametrize("per_source", [False, True])
def test_nothing_about_a_row_comes_from_the_targets_of_its_fold(combine: Combine, per_source: bool) -> None:
    oof = out_of_fold(600)
    rows = oof.fold == 2
    changed = replace(oof, target=np.where(rows, ~oof.target, oof.target))
    before, after = (judge(each, combine=combine, per_source=per_source, draws=5) for each in (oof, changed))
    assert before.calibrated is not None
    assert after.calibrated is not None
    for name in ("raw", "rank", "calibrated"):
        assert np.array_equal(getattr(before, name)[rows], getattr(after, name)[rows]), name
    assert not np.array_equal(before.calibrated[~rows], after.calibrated[~rows])


def test_thresholds_come_from_the_other_folds() -> None:
    """One fold scores far lower than the rest, so that the thresholds of the others find none of its melanomas."""
    oof = out_of_fold(1000)
    low = oof.fold == 0
    scores = np.where(low, 1e-4 * oof.scores, 0.5 + oof.scores / 2)
    point = judge(replace(oof, scores=scores), draws=5).operating_points[0]
    assert point.held_out_sensitivity is not None
    assert point.held_out_sensitivity.value == pytest.approx(1 - oof.target[low].sum() / oof.target.sum(), abs=0.01)
    assert point.sensitivity.value >= 0.8


def test_the_table_holds_the_aucs_of_the_rows_that_each_model_covers() -> None:
    oof = without_fold(out_of_fold(1000), 1, [0, 3])
    found = judge(oof, draws=200)
    assert [row.name for row in found.table] == [*oof.models, "ensemble"]
    for row, score in zip(found.table, [*oof.scores, found.raw], strict=True):
        known = ~np.isnan(score)
        assert (row.rows, row.positives) == (known.sum(), oof.target[known].sum())
        for part, within in (("merged", known), ("2020", known & (oof.source == 2020))):
            assert row.delong[part] == auc_interval(oof.target[within], score[within])
            assert row.over_groups[part].value == pytest.approx(roc_auc_score(oof.target[within], score[within]))
            assert row.over_groups[part].low < row.delong[part].value < row.over_groups[part].high


def test_gains_are_paired_differences_on_the_rows_of_the_best_model() -> None:
    oof = out_of_fold(1000)
    for model in range(3):
        oof = without_fold(oof, model, [model])
    found = {(gain.way, gain.over): gain for gain in judge(oof, draws=200).gains}
    assert set(found) == {(way, "best") for way in WAYS} | {("rank", "mean"), ("weighted", "mean")}
    best = oof.scores[oof.models.index(best_model(oof))]
    rows = ~np.isnan(best)
    assert rows.sum() == 800
    mean = np.nanmean(oof.scores, axis=0)
    gain = found["mean", "best"]
    expected = roc_auc_score(oof.target[rows], mean[rows]) - roc_auc_score(oof.target[rows], best[rows])
    assert gain.difference.value == pytest.approx(expected)
    assert gain.difference.low < expected < gain.difference.high
    assert gain.tie == (gain.difference.low <= 0 <= gain.difference.high)
    unpaired = judge(oof, draws=200).table[0].over_groups["merged"]
    assert gain.difference.high - gain.difference.low < unpaired.high - unpaired.low


def test_a_clear_gain_is_none_and_equal_ways_are_a_tie() -> None:
    gains = {(gain.way, gain.over): gain for gain in judge(out_of_fold(3000, noise=(1.5,) * 4), draws=200).gains}
    assert not gains["mean", "best"].tie
    assert gains["mean", "best"].difference.low > 0
    assert gains["weighted", "mean"].tie


def test_the_best_model_is_one_of_those_with_the_most_rows() -> None:
    assert best_model(out_of_fold(1000)) == "model0"
    assert best_model(without_fold(out_of_fold(1000), 0, [1])) == "model1"


def test_calibration_repairs_an_overconfident_score() -> None:
    oof = out_of_fold(4000)
    odds = 3 * np.log(oof.scores / (1 - oof.scores)) + 2
    found = judge(replace(oof, scores=1 / (1 + np.exp(-odds))), draws=100)
    before, after = found.before["merged"], found.after["merged"]
    assert before.slope.high < 0.6
    assert 0.85 < after.slope.value < 1.15
    assert after.intercept.low < 0 < after.intercept.high
    assert after.skill.low > 0
    assert after.ece < before.ece
    assert set(found.after) == {"merged", "2020", "2019"}


def test_one_fold_is_judged_without_what_needs_two() -> None:
    oof = out_of_fold(300, folds=1)
    found = judge(oof, draws=20)
    assert "one fold only" in found.not_cross_fitted
    assert (found.calibrated, found.after) == (None, {})
    assert {gain.way for gain in found.gains} == {"mean", "rank"}
    assert found.operating_points[0].held_out_sensitivity is None
    assert "one fold only" in "\n".join(lines(found))
    assert found.ensemble([Member(name="m", model="model0", fold=0)]).calibrators["all"].kind == "platt"
    with pytest.raises(UserError, match="one fold only"):
        judge(oof, combine="weighted")


def test_rows_of_one_class_are_refused() -> None:
    oof = out_of_fold(100)
    with pytest.raises(UserError, match="all 100 rows are of one class"):
        judge(replace(oof, target=np.zeros(100)))


def test_stability_is_judged_between_views_and_between_models() -> None:
    oof = out_of_fold(500)
    found = judge(replace(oof, views=oof.scores), draws=5).stability
    assert 0 < found["views"].flips.value < 1
    assert 0 < found["models"].against_mean.value < found["models"].flips.value
    steady = judge(replace(oof, views=np.repeat(oof.scores[:1], 4, axis=0)), draws=5).stability
    assert steady["views"].flips.value == 0
    assert judge(out_of_fold(500, noise=[0.5]), draws=5).stability == {}


def test_a_single_model_has_no_gains() -> None:
    assert judge(out_of_fold(200, noise=[0.5]), draws=5).gains == ()


@pytest.mark.parametrize("combine", WAYS)
def test_the_figures_fit_json_and_the_text_a_terminal(combine: Combine) -> None:
    oof = out_of_fold(600, models=("a_name_too_long_for_the_column", "b", "c"), source=np.zeros(600))
    found = judge(replace(oof, views=oof.scores), combine=combine, draws=20)
    facts = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert facts["table"][0]["delong"]["2019"]["value"] is None
    assert len(facts["operating_points"]) == 3
    text = list(lines(found))
    assert max(map(len, text)) <= 80
    perfect = replace(oof, scores=np.tile(oof.target, (3, 1)), source=2019 + oof.fold % 2)
    assert max(map(len, lines(judge(perfect, combine=combine, draws=20)))) <= 80
    assert f"{facts['table'][-1]['delong']['merged']['value']:.3f}" in "\n".join(text)


def test_the_same_seed_gives_the_same_intervals() -> None:
    oof = out_of_fold(300)
    first, second, other = (judge(oof, draws=50, seed=seed).table for seed in (1, 1, 2))
    assert first == second
    assert first != other
