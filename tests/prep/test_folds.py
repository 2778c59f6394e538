from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from configs.errors import UserError
from configs.prep import PrepConfig
from prep.duplicates import group_names
from prep.folds import assign_folds, decide_folds, leaking_groups, read_folds, subsource
from prep.tables import merged_table, read_duplicate_pairs


@pytest.fixture(scope="module")
def real(isic_sample: Path) -> pd.DataFrame:
    table = merged_table(isic_sample / "2020", isic_sample / "2019")
    pairs = read_duplicate_pairs(isic_sample / "2020")
    number = pd.Series(table.index, index=table["key"])
    table["group"] = group_names(table, number.loc[pairs.to_numpy().ravel()].to_numpy().reshape(-1, 2))
    table["subsource"] = subsource(table)
    table["fold"] = assign_folds(table, table["group"], folds=5, seed=0)
    return table


def test_no_patient_lesion_or_duplicate_crosses_folds(real: pd.DataFrame, isic_sample: Path) -> None:
    train = real[real["split"] == "train"]
    for name in ("patient", "lesion", "group"):
        assert train.groupby(name)["fold"].nunique().max() == 1
    fold = train.set_index("key")["fold"]
    pairs = read_duplicate_pairs(isic_sample / "2020")
    assert len(pairs) == 425
    np.testing.assert_array_equal(fold[pairs["image_name_1"]], fold[pairs["image_name_2"]])


def test_folds_are_alike_in_each_source(real: pd.DataFrame) -> None:
    train = real[real["split"] == "train"]
    positives = train[train["target"] == 1].groupby(["source", "fold"]).size().unstack()
    sizes = train.groupby(["source", "fold"]).size().unstack()
    for counts in (positives, sizes):
        assert ((counts.max(axis=1) - counts.min(axis=1)) / counts.mean(axis=1)).max() < 0.05
    by_archive = train[train["target"] == 1].groupby(["subsource", "fold"]).size().unstack()
    assert (by_archive.max(axis=1) - by_archive.min(axis=1)).max() <= 2


def test_test_rows_are_in_no_fold(real: pd.DataFrame) -> None:
    assert set(real.loc[real["split"] == "test", "fold"]) == {-1}
    assert set(real.loc[real["split"] == "train", "fold"]) == {0, 1, 2, 3, 4}


def test_patients_lesions_and_pairs_join_into_one_group() -> None:
    table = pd.DataFrame(
        {
            "key": ["a", "b", "c", "d", "e", "f"],
            "patient": ["P2", "P1", "P3", None, None, None],
            "lesion": [None, None, "L1", "L1", "L2", None],
        }
    )
    assert group_names(table, np.array([[0, 1]])).tolist() == ["P1", "P1", "L1", "L1", "L2", "f"]
    assert group_names(table, np.empty((0, 2), np.int64)).tolist() == ["P2", "P1", "L1", "L1", "L2", "f"]


def test_the_audit_names_the_groups_whose_kept_rows_leak() -> None:
    rows = pd.DataFrame(
        {
            "fold": [0, 1, 1, -1, 0, 1],
            "group": ["P1", "P1", "P2", "P2", "P3", "P3"],
            "split": ["train"] * 3 + ["test"] + ["train"] * 2,
            "left_out": [None] * 5 + ["duplicate of x"],
        }
    )
    assert leaking_groups(rows) == ["P1"]


def test_random_folds_leak_as_much_as_is_known(real: pd.DataFrame) -> None:
    fold = assign_folds(real, real["group"], folds=5, seed=0, scheme="random")
    rows = real.assign(fold=fold, left_out=None)
    assert len(leaking_groups(rows)) > 1_000
    of_2020 = rows[(rows["source"] == 2020) & (rows["split"] == "train")]
    elsewhere = of_2020.groupby("patient")["fold"].transform("nunique") > 1
    assert 0.997 < elsewhere.mean() < 1  # 99.8 % of them share a patient with another fold, whatever the seed


def write_folds(real: pd.DataFrame, csv: Path) -> pd.DataFrame:
    train = real[real["split"] == "train"]
    table = pd.DataFrame({"image_name": train["key"], "fold": train["fold"]})
    table.to_csv(csv, index=False)
    return table


def test_an_outside_assignment_is_taken_as_it_is(real: pd.DataFrame, tmp_path: Path) -> None:
    write_folds(real, tmp_path / "folds.csv")
    np.testing.assert_array_equal(read_folds(tmp_path / "folds.csv", real), real["fold"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda table: table.iloc[1:], "gives no fold to 1 training images"),
        (lambda table: table.assign(fold=table["fold"] + 1), "without a gap"),
        (lambda table: table.assign(fold=0), "two or more"),
        (lambda table: table.assign(fold="first"), "column fold: 'first', wanted a fold of 0 to 99"),
    ],
)
def test_a_bad_outside_assignment_is_refused(
    real: pd.DataFrame, tmp_path: Path, change: Callable[[pd.DataFrame], pd.DataFrame], said: str
) -> None:
    csv = tmp_path / "folds.csv"
    change(write_folds(real, csv)).to_csv(csv, index=False)
    with pytest.raises(UserError) as raised:
        read_folds(csv, real)
    assert said in str(raised.value)
    assert str(csv) in str(raised.value)


def test_strata_are_the_archives_that_lesion_ids_name(real: pd.DataFrame) -> None:
    train = real[real["split"] == "train"]
    rates = train.groupby("subsource")["target"].mean()
    known = {"2020": 0.0176, "BCN": 0.230, "HAM": 0.111, "MSK": 0.263, "none": 0.162}
    assert {name: round(rate, 4 if name == "2020" else 3) for name, rate in rates.items()} == known


def test_more_folds_than_groups_is_refused() -> None:
    table = pd.DataFrame(
        {"split": ["train"] * 2, "source": [2020] * 2, "target": [0, 1], "lesion": pd.Series([None] * 2, dtype="str")}
    )
    with pytest.raises(UserError, match="only 2 patients and lesions"):
        assign_folds(table, pd.Series(["P1", "P2"]), folds=3, seed=0)


def folds_of(csv: Path, text: str) -> np.ndarray:
    """What a folds file gives five training rows, of which a, b and c, d are copies, and d was left out for it."""
    csv.write_text(text)
    rows = pd.DataFrame(
        {
            "key": ["a", "b", "c", "d", "e"],
            "split": "train",
            "duplicate_cluster": pd.Series(["a", "a", "c", "c", None], dtype="str"),
            "left_out": pd.Series([None, None, None, "duplicate of c", None], dtype="str"),
        }
    )
    config = PrepConfig(isic2020="x", folds_file=str(csv))
    return decide_folds(rows, pd.DataFrame(), config)


def test_a_folds_file_may_leave_copies_without_a_fold(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    csv = tmp_path / "folds.csv"
    assert folds_of(csv, "image_name,fold\na,0\nb,0\nc,1\nd,-1\ne,1\n").tolist() == [0, 0, 1, -1, 1]
    assert capsys.readouterr().err == ""
    assert folds_of(csv, "image_name,kfold\na,-1\nb,0\nc,-1\nd,1\ne,1\n").tolist() == [0, 0, 1, 1, 1]
    said = "2 images of fold -1 are kept, in the fold of their copies, first a"
    assert capsys.readouterr().err == f"note: {csv}: {said}\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("image_name,fold\na,0\nb,0\nc,1\nd,1\ne,-1\n", "fold -1 means none, .*; 1 are kept, first e: give"),
        ("image_name,fold\na,-1\nb,-1\nc,1\nd,1\ne,0\n", "fold -1 means none, .*; 2 are kept, first a"),
        ("image_name,fold\na,0\nb,0\nc,1\nd,-2\ne,1\n", "line 5, column fold: '-2', wanted a fold of 0 to 99, or -1"),
        ("image_name,fold\na,0\nb,0\nc,1\nd,\ne,1\n", "line 5, column fold: nothing, wanted"),
        ("image_name,fold\na,0\nb,nan\nc,1\nd,1\ne,1\n", "line 3, column fold: 'nan', wanted"),
        ("image_name,tfrecord\na,0\n", "lacks the column fold or kfold; .*; rename the column tfrecord to fold"),
        ("image_name,folds\na,0\n", "rename the column folds to fold"),
        ("image_name,fold\n", "has no rows"),
    ],
)
def test_a_row_that_needs_a_fold_and_has_none_is_named(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        folds_of(tmp_path / "folds.csv", text)
