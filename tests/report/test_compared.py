"""--compare: other folds are recognised by their rows, and compared on the same images."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from cases import made_up
from commands import tiny
from sklearn.metrics import roc_auc_score

import infer
import train
from configs.errors import UserError
from configs.prep import PrepConfig
from engine.judging import OOF, SCHEMA_VERSION, write_record, write_table
from prep.build import build
from report.case import Case
from report.compared import comparisons
from report.sections import leaks, shortcuts


def judged_elsewhere(folder: Path, rows: pd.DataFrame, fold: np.ndarray) -> str:
    """A folder as infer.py --ensemble writes it: the targets and noise, under another assignment of folds."""
    folder.mkdir()
    noise = np.random.default_rng(1).random(len(rows))
    table = rows[["key", "target"]].assign(fold=fold, raw=(rows["target"] + noise) / 2)
    written(folder, table)
    return str(folder)


def written(folder: Path, table: pd.DataFrame) -> None:
    write_table(table, folder / OOF)
    write_record({"schema_version": SCHEMA_VERSION}, folder)


@pytest.fixture
def rows(synthetic_shards: Path) -> pd.DataFrame:
    return made_up(synthetic_shards).judged


def test_each_kind_of_folds_is_recognised(rows: pd.DataFrame, synthetic_shards: Path, tmp_path: Path) -> None:
    folds = {
        "source": (rows["source"] == 2020).to_numpy(),
        "subsource": pd.factorize(rows["subsource"])[0],
        "random": np.arange(len(rows)) % 3,
    }
    folders = [judged_elsewhere(tmp_path / kind, rows, fold.astype(int)) for kind, fold in folds.items()]
    case = made_up(synthetic_shards, compare=folders)
    for kind, folder in zip(folds, folders, strict=True):
        assert {one.folder for one in comparisons(case, kind)} == {folder}
    assert {one.rows for one in comparisons(case, "source")} == {"2019", "2020"}
    assert {one.rows for one in comparisons(case, "subsource")} == set(rows["subsource"])
    assert {one.rows for one in comparisons(case, "random")} == {"all", "2019", "2020"}


def test_both_are_judged_on_the_rows_that_they_share(
    rows: pd.DataFrame, synthetic_shards: Path, tmp_path: Path
) -> None:
    some = rows.iloc[::-1].iloc[:300]
    folder = judged_elsewhere(tmp_path / "random", some, np.arange(300) % 3)
    case = made_up(synthetic_shards, compare=[folder])
    found = comparisons(case, "random")[0]
    here = pd.Series(case.judgement.raw, case.judged["key"])[some["key"]]
    there = pd.read_parquet(Path(folder) / "oof.parquet")["raw"]
    assert (found.images, found.melanomas) == (300, some["target"].sum())
    assert found.here.value == pytest.approx(roc_auc_score(some["target"], here))
    assert found.there.value == pytest.approx(roc_auc_score(some["target"], there))
    assert found.difference.value == pytest.approx(found.there.value - found.here.value)
    assert found.difference.low < found.difference.value < found.difference.high


def test_the_folds_of_the_report_itself_are_nothing_to_compare_with(
    rows: pd.DataFrame, synthetic_shards: Path, tmp_path: Path
) -> None:
    folder = judged_elsewhere(tmp_path / "same", rows, rows["fold"].to_numpy())
    with pytest.raises(UserError, match=r"--compare .*same: its folds are neither"):
        comparisons(made_up(synthetic_shards, compare=[folder]), "random")


def broken(folder: Path, how: str) -> None:
    table = pd.read_parquet(folder / "oof.parquet")
    if how == "missing":
        (folder / "ensemble.json").unlink()
    elif how == "other images":
        written(folder, table.assign(key="x" + table["key"]))
    elif how == "other targets":
        written(folder, table.assign(target=1 - table["target"]))
    else:
        table.assign(raw=0.5).to_parquet(folder / "oof.parquet")


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("missing", "does not exist"),
        ("changed by hand", "missing or damaged"),
        ("other images", "no image that this report has judged"),
        ("other targets", "images have another target there"),
    ],
)
def test_a_folder_of_something_else_is_refused(
    how: str, said: str, rows: pd.DataFrame, synthetic_shards: Path, tmp_path: Path
) -> None:
    folder = judged_elsewhere(tmp_path / "other", rows, np.arange(len(rows)) % 3)
    broken(tmp_path / "other", how)
    with pytest.raises(UserError, match=f"other.*{said}"):
        comparisons(made_up(synthetic_shards, compare=[folder]), "random")


def trained_on(downloads: Path, out: Path, **folds: str) -> str:
    """tiny, trained and judged on other folds of the synthetic set."""
    folders = {f"isic{year}": str(downloads / str(year)) for year in (2019, 2020)}
    build(PrepConfig(**folders, out=str(out / "shards"), size=48, folds=2, workers=1, **folds))  # type: ignore[arg-type]
    train.main(tiny(out / "shards", out / "runs", "--fold", "all", "--epochs", "1"))
    words = ["--runs", str(out / "runs"), "--shards", str(out / "shards"), "--out", str(out / "outputs")]
    infer.main([*words, "--ensemble", "--views", "1"])
    return str(out / "outputs")


@pytest.mark.long
def test_ensembles_that_were_really_trained_on_other_folds(synthetic_shards: Path, tmp_path: Path) -> None:
    """What the report says to type: random folds, and a fold for each source."""
    downloads = synthetic_shards.parent / "data"
    rows = made_up(synthetic_shards).rows
    rows = rows[rows["split"] == "train"]
    fold = rows.groupby("group")["source"].transform("max").map({2020: 0, 2019: 1})
    pd.DataFrame({"image_name": rows["key"], "fold": fold}).to_csv(tmp_path / "folds.csv", index=False)
    folders = [
        trained_on(downloads, tmp_path / "source", folds_file=str(tmp_path / "folds.csv")),
        trained_on(downloads, tmp_path / "random", fold_scheme="random"),
    ]
    case: Case = made_up(synthetic_shards, compare=folders)
    assert [(one.rows, one.folder) for one in comparisons(case, "source")] == [
        ("2019", folders[0]),
        ("2020", folders[0]),
    ]
    assert "random folds would have claimed" in leaks.section(case).verdict
    names = [getattr(part, "name", "") for part in shortcuts.section(case).parts]
    assert names.count("other_sources") == 2
    assert "not_measured_source" not in names
