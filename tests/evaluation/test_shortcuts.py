"""Scores without a picture: against closed forms, on made-up tables, and on the complete real tables."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from simulated import out_of_fold
from sklearn.metrics import roc_auc_score

from configs.prep import PrepConfig
from evaluation.shortcuts import SHORTCUTS, Shortcut, cross_fitted, facts_of, shortcuts, source_share
from prep.duplicates import find_duplicates
from prep.plan import make_plan
from prep.rows import read_rows
from prep.tables import read_duplicate_pairs


def table(samples: int = 3000, seed: int = 0) -> pd.DataFrame:
    """Melanoma depends on the age alone; everything else is noise, or missing."""
    rng = np.random.default_rng(seed)
    age = rng.uniform(20, 80, samples).round(0)
    group = np.arange(samples) // 4
    return pd.DataFrame(
        {
            "source": np.where(group // 4 % 2, 2019, 2020),
            "subsource": rng.choice(["HAM", "BCN"], samples),
            "target": rng.random(samples) < expit((age - 70) / 10),
            "fold": group % 4,
            "group": group,
            "age": np.where(rng.random(samples) < 0.1, np.nan, age),
            "sex": rng.choice(["male", "female", None], samples),
            "site": rng.choice(["torso", None], samples),
            "n_images": rng.integers(1, 50, samples),
            "file_bytes": rng.integers(1000, 9000, samples),
            "width": rng.choice([640, 1024], samples),
            "height": 480,
        }
    )


def found_in(rows: pd.DataFrame) -> dict[tuple[str, str], Shortcut]:
    columns = {name: rows[name].to_numpy() for name in ("target", "fold", "group", "source")}
    return {(one.name, one.way): one for one in shortcuts(facts_of(rows), **columns)}


@pytest.mark.parametrize("way", ["logistic", "boosted"])
def test_only_the_fact_that_tells_something_scores(way: str) -> None:
    found = found_in(table())
    assert {name for name, _ in found} == set(SHORTCUTS)
    for (name, one), shortcut in found.items():
        if one == way and "age" in SHORTCUTS[name]:
            assert shortcut.auc["merged"].low > 0.65, name
        elif one == way:
            assert 0.44 < shortcut.auc["merged"].value < 0.56, name


def test_a_fact_that_differs_between_the_sources_only_scores_nothing_within_them() -> None:
    rng = np.random.default_rng(1)
    rows = table()
    rows["target"] = rng.random(len(rows)) < np.where(rows["source"] == 2019, 0.3, 0.05)
    found = found_in(rows)["source", "logistic"].auc
    assert found["merged"].value == pytest.approx(roc_auc_score(rows["target"], rows["source"] == 2019), abs=0.01)
    assert found["2019"].value == found["2020"].value == found["within"].value == 0.5


def test_no_row_is_scored_by_a_fit_that_has_seen_it() -> None:
    """A category for every row: whoever had seen its target would know it."""
    rng = np.random.default_rng(0)
    columns = pd.DataFrame({"subsource": [f"clinic {number // 2}" for number in range(200)]})
    target = rng.random(200) < 0.5
    fold = np.arange(200) // 2 % 5
    for way in ("logistic", "boosted"):
        score = cross_fitted(columns, target, fold, way)
        for number in range(5):
            assert len(np.unique(score[fold == number])) == 1


def test_ages_that_are_all_missing_and_columns_that_are_not_there_do_no_harm() -> None:
    rows = table().assign(age=np.nan, source=2020).drop(columns=["width", "file_bytes"])
    found = found_in(rows)
    assert {name for name, _ in found} == set(SHORTCUTS) - {"pixel dimensions", "file size", "all of these"}
    assert found["age, sex, site", "boosted"].auc["merged"].value < 0.6
    assert math.isnan(found["source", "boosted"].auc["2019"].value)


def test_one_fold_is_refused() -> None:
    with pytest.raises(ValueError, match="one fold only"):
        found_in(table().assign(fold=0))


def test_the_merged_auc_is_that_within_and_between_sources_weighted_by_their_pairs() -> None:
    oof = out_of_fold()
    score = oof.scores[0] * np.where(oof.source == 2019, 1.0, 0.5)
    found = source_share(score, oof.target, oof.fold, oof.group, oof.source)
    pairs = {(one, two): (oof.source[oof.target] == one).sum() * (oof.source[~oof.target] == two).sum()
             for one in (2019, 2020) for two in (2019, 2020)}  # fmt: skip
    assert found.pairs_within == (pairs[2019, 2019] + pairs[2020, 2020]) / sum(pairs.values())
    across = [score[oof.target & (oof.source == one)][:, None] > score[~oof.target & (oof.source == two)]
              for one, two in ((2019, 2020), (2020, 2019))]  # fmt: skip
    assert found.between == pytest.approx(np.concatenate([part.ravel() for part in across]).mean())
    assert found.merged.value == pytest.approx(roc_auc_score(oof.target, score))


def test_a_score_that_is_the_source_owes_it_everything_and_one_that_ignores_it_nothing() -> None:
    oof = out_of_fold(4000, noise=(0.5,))
    rng = np.random.default_rng(0)
    target = rng.random(4000) < np.where(oof.source == 2019, 0.3, 0.05)
    only = source_share(np.where(oof.source == 2019, 0.3, 0.05), target, oof.fold, oof.group, oof.source)
    assert only.share.value == 1
    assert only.within.value == 0.5
    assert only.gain_if_told.low <= 0 <= only.gain_if_told.high
    nothing = source_share(oof.scores[0], oof.target, oof.fold, oof.group, oof.source)
    assert nothing.share.low < 0 < nothing.share.high


def test_a_score_that_does_not_know_the_source_gains_from_being_told() -> None:
    oof = out_of_fold(4000, noise=(0.5,))
    rng = np.random.default_rng(0)
    target = rng.random(4000) < np.where(oof.source == 2019, 0.3, 0.05)
    blind = source_share(rng.random(4000), target, oof.fold, oof.group, oof.source)
    assert blind.gain_if_told.low > 0.1


def test_the_share_has_the_interval_that_it_has_over_simulated_repetitions() -> None:
    """95 of 100 intervals hold the mean of a thousand repetitions, give or take."""
    found = [out_of_fold(600, noise=(1.0,), seed=seed) for seed in range(100)]
    shares = []
    for oof in found:
        score = np.clip(oof.scores[0] + 0.1 * (oof.source == 2019), 0, 1)
        target = oof.target & ((oof.source == 2019) | (np.arange(600) % 4 < 2))
        shares.append(source_share(score, target, oof.fold, oof.group, oof.source).share)
    truth = np.mean([share.value for share in shares])
    assert 88 <= sum(share.low <= truth <= share.high for share in shares) <= 100


def test_with_one_source_there_is_nothing_to_owe() -> None:
    oof = out_of_fold(source=np.full(1200, 2020))
    found = source_share(oof.scores[0], oof.target, oof.fold, oof.group, oof.source)
    assert found.share.value == pytest.approx(0)
    assert found.pairs_within == 1
    assert math.isnan(found.between)


@pytest.mark.long
def test_the_complete_real_tables_score_as_is_known(isic_sample: Path) -> None:
    config = PrepConfig(isic2020=str(isic_sample / "2020"), isic2019=str(isic_sample / "2019"), duplicates="group")
    rows = read_rows(config, images=False)
    pairs = find_duplicates(rows, read_duplicate_pairs(config.isic2020), None)
    rows = make_plan(rows, pairs, config).rows
    rows = rows[rows["split"] == "train"].drop(columns=["width", "height", "file_bytes"], errors="ignore")
    assert (len(rows), rows["target"].sum()) == (58_457, 5_106)
    rows = rows.assign(target=rows["target"] == 1, fold=rows["fold"].astype("int64"))
    found = found_in(rows)
    assert found["source", "logistic"].auc["merged"].value == pytest.approx(0.7478, abs=0.0002)
    assert found["sub-source", "boosted"].auc["merged"].value == pytest.approx(0.783, abs=0.001)
    assert found["sub-source", "boosted"].auc["2019"].value == pytest.approx(0.603, abs=0.001)
    for way in ("logistic", "boosted"):
        assert 0.67 < found["age, sex, site", way].auc["merged"].value < 0.70
        assert 0.655 < found["age, sex, site", way].auc["2020"].value < 0.69
        assert 0.80 < found["age, sex, site, source", way].auc["merged"].value < 0.82
        assert found["images of the patient", way].auc["2020"].value == pytest.approx(0.71, abs=0.015)
