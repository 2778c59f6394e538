from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from configs.errors import UserError
from prep.duplicates import group_names
from prep.folds import assign_folds, audit_folds
from prep.tables import merged_table, read_duplicate_pairs


@pytest.fixture(scope="module")
def real(isic_sample: Path) -> pd.DataFrame:
    table = merged_table(isic_sample / "2020", isic_sample / "2019")
    table["group"] = group_names(table, read_duplicate_pairs(isic_sample / "2020"))
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


def test_test_rows_are_in_no_fold(real: pd.DataFrame) -> None:
    assert set(real.loc[real["split"] == "test", "fold"]) == {-1}
    assert set(real.loc[real["split"] == "train", "fold"]) == {0, 1, 2, 3, 4}


def test_a_pair_joins_the_groups_of_both_patients() -> None:
    table = pd.DataFrame({"key": ["a", "b", "c"], "patient": ["P2", "P1", "P3"], "lesion": [None] * 3})
    pairs = pd.DataFrame({"image_name_1": ["a", "a"], "image_name_2": ["b", "not in the table"]})
    assert group_names(table, pairs).tolist() == ["P1", "P1", "P3"]


def test_the_audit_names_a_group_that_leaks() -> None:
    with pytest.raises(UserError, match="first 'P1'"):
        audit_folds(np.array([0, 1, 1, -1], dtype=np.int8), pd.Series(["P1", "P1", "P2", "P2"]))


def test_more_folds_than_groups_is_refused() -> None:
    table = pd.DataFrame(
        {"split": ["train"] * 2, "source": [2020] * 2, "target": [0, 1], "lesion": pd.Series([None] * 2, dtype="str")}
    )
    with pytest.raises(UserError, match="only 2 patients and lesions"):
        assign_folds(table, pd.Series(["P1", "P2"]), folds=3, seed=0)
