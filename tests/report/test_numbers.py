"""The chapters on discrimination, calibration and subgroups, on simulated predictions."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from configs.report import ReportConfig
from evaluation.judgement import judge
from evaluation.table import OutOfFold
from report.case import Case
from report.page import Picture, Section, Table
from report.sections import calibration, performance, subgroups
from report.style import png

CHAPTERS: list[Callable[[Case], Section]] = [performance.section, calibration.section, subgroups.section]


def case(samples: int = 900, *, models: int = 2, folds: int = 3, **columns: Any) -> Case:
    """Two images a patient; `columns` replaces columns of the rows."""
    rng = np.random.default_rng(0)
    odds, group = rng.normal(-1, 1.5, samples), np.arange(samples) // 2
    target = rng.random(samples) < expit(odds)
    rows = {
        "source": np.where(group % 2 == 0, 2019, 2020),
        "subsource": np.where(group % 2 == 0, "HAM", "2020"),
        "target": target,
        "diagnosis": np.where(target, "MEL", np.where(rng.random(samples) < 0.2, "BCC", "NV")),
        "lesion": np.where(group % 2 == 0, np.array([f"HAM_{number}" for number in group], dtype=object), None),
        "sex": np.array(["male", "female", None], dtype=object)[rng.choice(3, samples, p=[0.5, 0.45, 0.05])],
        "age": np.where(rng.random(samples) < 0.1, np.nan, rng.integers(3, 18, samples) * 5.0),
        "site": np.array(["torso", "head/neck", None], dtype=object)[rng.integers(0, 3, samples)],
    }
    table = pd.DataFrame({**rows, **columns})
    oof = OutOfFold(
        key=np.array([f"s{number}" for number in range(samples)]),
        fold=group % folds,
        source=table["source"].to_numpy(),
        target=table["target"].to_numpy(),
        group=group,
        models=tuple(f"model{number}" for number in range(models)),
        scores=expit(odds + rng.normal(0, 0.5, (models, samples))),
    )
    return Case(
        config=ReportConfig(draws=100),
        shards=None,
        rows=table,
        index=np.arange(samples),
        judgement=judge(oof, draws=100),
        members=[],
        record=None,
        predictions=None,
    )


def tables(section: Section) -> dict[str, list[Any]]:
    return {part.name: list(part.rows) for part in section.parts if isinstance(part, Table)}


def pictures(section: Section) -> dict[str, Picture]:
    return {part.name: part for part in section.parts if isinstance(part, Picture)}


WHOLE = case()


def test_the_chapters_have_their_pictures_and_each_becomes_a_png() -> None:
    found = [name for chapter in CHAPTERS for name in pictures(chapter(WHOLE))]
    assert found == [
        *("roc_curve", "precision_recall_curve", "confusion_matrix"),
        *("reliability_diagram", "decision_curve"),
        *("auc_by_subgroup", "sensitivity_by_subgroup", "calibration_by_subgroup"),
    ]
    for chapter in CHAPTERS:
        for picture in pictures(chapter(WHOLE)).values():
            assert png(picture.figure).startswith(b"\x89PNG")


def test_the_verdict_names_the_aucs_that_the_table_holds() -> None:
    section = performance.section(WHOLE)
    oof = WHOLE.judgement.oof
    late = oof.source == 2020
    merged, of_2020 = (roc_auc_score(oof.target[rows], WHOLE.judgement.raw[rows]) for rows in (late | ~late, late))
    rows = {row["rows of"]: row for row in tables(section)["discrimination"]}
    assert list(rows) == ["merged", "2020", "2019", "within sources", "without BCC, SCC, AK", "by lesion"]
    assert rows["merged"]["AUC"].value == pytest.approx(merged)
    assert section.verdict.startswith(f"AUC {merged:.3f} (")
    assert f"{of_2020:.3f} (" in section.verdict
    assert section.verdict.endswith(f"; {oof.target.sum():,} melanomas")


def test_calibration_is_shown_before_and_after_and_by_age_and_sex() -> None:
    found = tables(calibration.section(WHOLE))
    assert {row["calibration"] for row in found["calibration"]} == {"before", "after"}
    for row in found["brier_decomposition"]:
        assert row["brier"] == pytest.approx(
            row["reliability"] - row["resolution"] + row["uncertainty"] + row["within"]
        )
    groups = {(row["by"], row["group"]): row for row in found["calibration_by_group"]}
    male = WHOLE.judged["sex"] == "male"
    expected = WHOLE.judgement.oof.target[male].sum() / WHOLE.probability[male].sum()
    assert groups["sex", "male"]["observed / expected"] == pytest.approx(expected)
    assert groups["sex", "missing"]["slope"] == "too few"


def test_every_table_has_the_same_columns_in_all_rows() -> None:
    for chapter in CHAPTERS:
        for name, rows in tables(chapter(WHOLE)).items():
            assert rows, name
            assert {tuple(row) for row in rows} == {tuple(rows[0])}, name


def test_the_subgroups_say_what_the_tables_cannot() -> None:
    section = subgroups.section(WHOLE)
    assert any(
        "neither training table has a column for skin type" in part for part in section.parts if isinstance(part, str)
    )
    assert section.verdict.startswith("subgroups: ")


ODD = {
    "one source": {"source": np.full(900, 2020), "subsource": np.full(900, "2020")},
    "other source": {"source": np.zeros(900, dtype=int), "subsource": np.full(900, None, dtype=object)},
    "one fold": {"folds": 1},
    "a single model": {"models": 1},
    "nothing known": {
        name: np.full(900, np.nan if name == "age" else None, dtype=float if name == "age" else object)
        for name in ("age", "sex", "site", "lesion", "diagnosis")
    },
    "no melanoma in a source": {"target": (np.arange(900) // 2 % 2 == 1) & (np.arange(900) % 5 == 0)},
    "three melanomas": {"target": np.isin(np.arange(900), (2, 6, 400))},
}


@pytest.mark.parametrize("what", ODD)
def test_odd_data_make_chapters_all_the_same(what: str) -> None:
    odd = case(**ODD[what])
    for chapter in CHAPTERS:
        section = chapter(odd)
        assert "nan" not in section.lead + section.verdict
        for picture in pictures(section).values():
            picture.figure.draw_without_rendering()
            assert "nan" not in picture.caption


def test_fewer_than_fifty_melanomas_give_no_figure() -> None:
    few = case(**ODD["three melanomas"])
    section = performance.section(few)
    assert section.lead.startswith("3 melanomas among 900 images are too few to judge")
    assert {row["AUC"] for row in tables(section)["discrimination"]} == {"too few"}
    assert "models_against_ensemble" not in tables(section)
    assert {row["slope"] for row in tables(calibration.section(few))["calibration"]} == {"too few"}
    assert subgroups.section(few).verdict == "subgroups: 0 of 0 gaps beyond noise"


def test_a_model_that_does_not_cover_all_folds_is_compared_on_its_own_rows() -> None:
    oof = WHOLE.judgement.oof
    scores = oof.scores.copy()
    scores[1, oof.fold == 0] = np.nan
    partial = replace(WHOLE, judgement=judge(replace(oof, scores=scores), draws=100))
    rows = {
        (row["model"], row["rows of"]): row for row in tables(performance.section(partial))["models_against_ensemble"]
    }
    assert rows["model1", "merged"]["melanomas"] == oof.target[oof.fold != 0].sum()
