import json
from dataclasses import replace

import numpy as np
import pytest
from simulated import out_of_fold

from configs.errors import UserError
from evaluation.calibration import Calibrator
from evaluation.combination import Combine, out_of_fold_scores, rank_against
from evaluation.judgement import judge
from evaluation.shipped import Ensemble, Member, ensemble_of, rank_references

MEMBERS = tuple(Member(name=f"{model}_fold{fold}", model=model, fold=fold) for model in ("a", "b") for fold in (0, 1))


def test_the_mean_is_over_the_members_of_a_model_and_then_over_models() -> None:
    members = (*MEMBERS, Member(name="b_fold2", model="b", fold=2))
    scores = np.random.default_rng(0).random((5, 7))
    expected = (scores[:2].mean(axis=0) + scores[2:].mean(axis=0)) / 2
    assert ensemble_of(members).raw(scores) == pytest.approx(expected)


def test_weights_are_of_models() -> None:
    scores = np.random.default_rng(0).random((4, 7))
    ensemble = ensemble_of(MEMBERS, combine="weighted", known={"a": 0.9, "b": 0.1})
    assert ensemble.raw(scores) == pytest.approx(0.9 * scores[:2].mean(axis=0) + 0.1 * scores[2:].mean(axis=0))


def test_ranks_are_against_each_members_own_reference() -> None:
    rng = np.random.default_rng(0)
    scores, references = rng.random((4, 7)), {member.name: rng.random(50) for member in MEMBERS}
    ranks = np.stack([rank_against(references[member.name], row) for member, row in zip(MEMBERS, scores, strict=True)])
    assert ensemble_of(MEMBERS, combine="rank").raw(scores, references) == pytest.approx(ranks.mean(axis=0))


def test_one_image_scores_as_it_does_among_many() -> None:
    rng = np.random.default_rng(0)
    scores, references = rng.random((4, 50)), {member.name: rng.random(30) for member in MEMBERS}
    for combine in ("mean", "rank", "weighted"):
        ensemble = ensemble_of(MEMBERS, combine=combine, known={"a": 0.7, "b": 0.3})
        alone = [ensemble.raw(scores[:, [number]], references)[0] for number in range(50)]
        assert np.array_equal(alone, ensemble.raw(scores, references))


def test_a_model_without_out_of_fold_rows_gets_its_share() -> None:
    members = (*MEMBERS, Member(name="c_all", model="c", fold=None))
    ensemble = ensemble_of(members, combine="weighted", known={"a": 0.75, "b": 0.25, "absent": 0.0})
    assert dict(zip(ensemble.models, ensemble.weights, strict=True)) == pytest.approx(
        {"a": 0.75 * 2 / 3, "b": 0.25 * 2 / 3, "c": 1 / 3}
    )


def test_the_reference_is_of_the_fold_else_of_the_model_else_of_all() -> None:
    oof = out_of_fold(100)
    scores = oof.scores.copy()
    scores[0, oof.fold == 4] = np.nan
    oof = replace(oof, scores=scores)
    members = [
        Member(name="own", model="model0", fold=1),
        Member(name="lost", model="model0", fold=4),
        Member(name="all", model="model1", fold=None),
        Member(name="stranger", model="other", fold=0),
    ]
    found = rank_references(oof, members)
    assert found["own"].tolist() == sorted(scores[0, oof.fold == 1])
    assert found["lost"].tolist() == sorted(scores[0, oof.fold != 4])
    assert found["all"].tolist() == sorted(scores[1])
    assert found["stranger"].tolist() == sorted(scores[~np.isnan(scores)])


@pytest.mark.parametrize("combine", ["mean", "rank"])
def test_out_of_fold_rows_score_as_their_members_would_score_them_anew(combine: Combine) -> None:
    oof = out_of_fold(200)
    whole = out_of_fold_scores(oof, combine)
    for fold in range(5):
        members = [Member(name=model, model=model, fold=fold) for model in oof.models]
        ensemble = ensemble_of(members, combine=combine)
        rows = oof.fold == fold
        assert ensemble.raw(oof.scores[:, rows], rank_references(oof, members)) == pytest.approx(whole[rows])


def test_an_ensemble_survives_json() -> None:
    oof = out_of_fold(400)
    members = [Member(name=f"{model}_{fold}", model=model, fold=fold) for model in oof.models for fold in range(5)]
    ensemble = judge(oof, combine="weighted", per_source=True, draws=10).ensemble(members)
    assert set(ensemble.calibrators) == {"all", "2019", "2020"}
    assert Ensemble.from_dict(json.loads(json.dumps(ensemble.to_dict(), allow_nan=False))) == ensemble


def test_an_ensemble_that_nothing_was_fitted_for_survives_json_and_keeps_the_score() -> None:
    ensemble = Ensemble.from_dict(json.loads(json.dumps(ensemble_of(MEMBERS).to_dict(), allow_nan=False)))
    assert ensemble.calibrated([0.2, 0.7]) == pytest.approx([0.2, 0.7])
    with pytest.raises(UserError, match="prevalence of the fitted rows"):
        ensemble.calibrated([0.2], prevalence=0.02)


def test_calibration_goes_by_source_and_prevalence() -> None:
    calibrators = {"all": Calibrator(kind="platt", prevalence=0.1), "2019": Calibrator(kind="platt", intercept=2.0)}
    ensemble = ensemble_of(MEMBERS, calibrators=calibrators)
    assert ensemble.calibrated([0.2, 0.2], [2020, 2019])[0] == pytest.approx(0.2)
    assert ensemble.calibrated([0.2, 0.2], [2020, 2019])[1] > 0.5
    assert ensemble.calibrated([0.2], prevalence=0.01)[0] < 0.05


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 0}, "schema 0"),
        ({"members": [{"name": "x"}]}, "damaged"),
        ({"weights": [0.5, 0.6]}, "not 0 or more with sum 1"),
        ({"models": ["a"]}, "do not fit the members"),
        ({"combine": "median"}, "combine='median'"),
        ({"calibrators": {}}, "no calibrator"),
    ],
)
def test_a_file_that_is_no_ensemble_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Ensemble.from_dict({**ensemble_of(MEMBERS).to_dict(), **change})


def test_scores_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="expected 4 members"):
        ensemble_of(MEMBERS).raw(np.zeros((3, 2)))
    with pytest.raises(ValueError, match="without NaN"):
        ensemble_of(MEMBERS).raw(np.full((4, 2), np.nan))
    with pytest.raises(ValueError, match="references"):
        ensemble_of(MEMBERS, combine="rank").raw(np.zeros((4, 2)))
    with pytest.raises(UserError, match="one member"):
        ensemble_of([])
