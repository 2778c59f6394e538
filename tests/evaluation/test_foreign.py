import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from simulated import out_of_fold
from sklearn.metrics import roc_auc_score

from configs.errors import UserError
from evaluation.ensemble import main
from evaluation.foreign import ForeignConfig, drawn_folds, read_foreign

ROOT = Path(__file__).resolve().parents[2]
OOF = out_of_fold(300, noise=(0.5, 1.0))


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str, str]:
    """A.csv with the truth beside its scores, B.csv in another order with scores alone, truth.csv with more rows."""
    facts = {"image_name": OOF.key, "label": OOF.target.astype(int), "part": OOF.fold, "patient": OOF.group}
    truth = pd.DataFrame({**facts, "year": OOF.source})
    paths = tuple(str(tmp_path / name) for name in ("A.csv", "B.csv", "truth.csv"))
    truth.assign(prob=OOF.scores[0]).to_csv(paths[0], index=False)
    second = pd.DataFrame({"image_name": OOF.key, "target": OOF.scores[1]})
    second.sample(frac=1, random_state=0).to_csv(paths[1], index=False)
    extra = truth.assign(image_name="x" + truth["image_name"])
    pd.concat([extra, truth]).to_csv(paths[2], index=False)
    return paths


def config(*paths: str, **other: str) -> ForeignConfig:
    given = {"target": "label", "fold": "part", "group": "patient", "source": "year", **other}
    return ForeignConfig(files=list(paths), **given)


def test_files_are_joined_by_key(files: tuple[str, str, str]) -> None:
    oof, remarks = read_foreign(config(*files[:2]))
    assert oof.models == ("A", "B")
    assert oof.scores == pytest.approx(OOF.scores)
    for name in ("key", "fold", "source", "target"):
        assert np.array_equal(getattr(oof, name), getattr(OOF, name)), name
    assert len(set(zip(oof.group.tolist(), OOF.group.tolist(), strict=True))) == 150
    assert remarks == []


def test_the_truth_may_be_apart_and_hold_more_rows(files: tuple[str, str, str]) -> None:
    oof, remarks = read_foreign(config(files[1], truth=files[2]))
    assert dict(zip(oof.key, oof.scores[0], strict=True)) == pytest.approx(
        dict(zip(OOF.key, OOF.scores[1], strict=True))
    )
    assert remarks == [f"300 of the 600 rows of {files[2]} have no prediction and are left out"]


def test_folds_are_drawn_where_none_are_given(files: tuple[str, str, str]) -> None:
    oof, remarks = read_foreign(config(files[0], fold=""))
    assert sorted(set(oof.fold.tolist())) == [0, 1, 2, 3, 4]
    assert remarks == ["5 folds were drawn by patient, since --fold names no column"]


def test_drawn_folds_keep_groups_together_and_share_the_melanomas() -> None:
    rng = np.random.default_rng(0)
    group, target = rng.integers(0, 100, 400), rng.random(400) < 0.1
    fold = drawn_folds(group, target, 4, seed=1)
    assert all(len(set(fold[group == each])) == 1 for each in np.unique(group))
    with_melanoma = [len(set(group[target & (fold == each)])) for each in range(4)]
    assert max(with_melanoma) - min(with_melanoma) <= 1
    assert np.array_equal(fold, drawn_folds(group, target, 4, seed=1))
    assert not np.array_equal(fold, drawn_folds(group, target, 4, seed=2))


def words(*paths: str) -> list[str]:
    return [*paths, "--target", "label", "--fold", "part", "--group", "patient", "--source", "year", "--draws", "100"]


def test_the_command_prints_the_verdict_and_writes_it(
    files: tuple[str, str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([*words(*files[:2]), "--out", str(tmp_path / "new" / "found.json"), "--combine=weighted", "--per-source"])
    facts = json.loads((tmp_path / "new" / "found.json").read_text())
    expected = roc_auc_score(OOF.target, OOF.scores[0])
    assert facts["table"][0]["delong"]["merged"]["value"] == pytest.approx(expected)
    assert set(facts["calibrators"]) == {"all", "2019", "2020"}
    printed = capsys.readouterr().out
    for said in (f"{expected:.3f}", "Gain in AUC", "Calibration", "Operating points", "weights: A "):
        assert said in printed
    assert not list((tmp_path / "new").glob("*.tmp"))


def test_the_command_writes_the_combined_predictions(files: tuple[str, str, str], tmp_path: Path) -> None:
    main([*words(*files[:2]), "--out", str(tmp_path / "found.csv")])
    rows = pd.read_csv(tmp_path / "found.csv")
    assert rows["raw"].to_numpy() == pytest.approx(OOF.scores.mean(axis=0))
    assert list(rows) == ["key", "fold", "target", "raw", "rank", "calibrated"]


def edited(path: str, column: str, value: object, row: int = 3) -> None:
    rows = pd.read_csv(path, dtype=object)
    rows.loc[row, column] = value
    rows.to_csv(path, index=False)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("label", "2", "column label, s3: '2', wanted 0 or 1"),
        ("label", np.nan, "column label: 1 empty cells, the first for s3"),
        ("year", "2018", "column year, s3: '2018', wanted 2019 or 2020 or 0"),
        ("image_name", "s0", "'s0' is there twice"),
        ("prob", "1.5", "columns of numbers of 0 to 1: none"),
        ("image_name", "other", "lacks 1 of the 300 keys of .*, such as other"),
    ],
)
def test_a_bad_cell_is_named(files: tuple[str, str, str], column: str, value: object, message: str) -> None:
    edited(files[0], column, value)
    with pytest.raises(UserError, match=message):
        read_foreign(config(*files[:2]))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"target": "melanoma"}, "has no column 'melanoma'"),
        ({"fold": "kfold"}, "has no column 'kfold'"),
        ({"key": "id"}, "has no column 'id'"),
        ({"score": "year"}, "column year, s0: '2019', wanted a number of 0 to 1"),
        ({"group": ""}, ""),
        ({"source": ""}, ""),
    ],
)
def test_a_column_that_is_not_there_is_named(files: tuple[str, str, str], given: dict[str, str], message: str) -> None:
    if message:
        with pytest.raises(UserError, match=message):
            read_foreign(config(files[0], **given))
    else:
        assert len(read_foreign(config(files[0], **given, score="prob"))[0].key) == 300


def test_two_columns_that_may_be_the_score_are_asked_about(files: tuple[str, str, str]) -> None:
    rows = pd.read_csv(files[0])
    rows.assign(pred_best=rows["prob"]).to_csv(files[0], index=False)
    with pytest.raises(UserError, match="prob, pred_best; name the prediction's with --score"):
        read_foreign(config(files[0]))


def test_keys_that_a_later_file_has_in_excess_are_counted(files: tuple[str, str, str]) -> None:
    pd.read_csv(files[0]).iloc[10:].to_csv(files[0], index=False)
    with pytest.raises(UserError, match=r"A\.csv lacks 10 of the 300 keys of .*B\.csv"):
        read_foreign(config(*files[:2]))


def test_settings_out_of_range_are_refused() -> None:
    for given, message in (
        ({"files": []}, "no predictions"),
        ({"files": ["A", "A"]}, "given twice"),
        ({"files": ["A.csv"], "out": "x.txt"}, "out"),
    ):
        with pytest.raises(UserError, match=message):
            ForeignConfig(**given)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"a,b\n1,2,3,4\n"])
def test_a_file_that_is_no_csv_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "A.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"A\.csv is not a CSV file"):
        read_foreign(ForeignConfig(files=[str(path)]))


def test_a_mistake_ends_the_command_in_one_line() -> None:
    command = [sys.executable, "-m", "evaluation.ensemble", "absent.csv"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: absent.csv does not exist: give CSV files of predictions\n"


@pytest.mark.parametrize("value", [0, 1])
def test_a_table_of_one_class_is_refused(files: tuple[str, str, str], value: int) -> None:
    rows = pd.read_csv(files[0], dtype=object)
    rows.assign(label=str(value)).to_csv(files[0], index=False)
    with pytest.raises(UserError, match=r"column label: none of 300 rows is .*: nothing to judge"):
        read_foreign(config(*files[:2]))


def test_a_table_without_rows_is_refused(files: tuple[str, str, str]) -> None:
    pd.read_csv(files[0], dtype=object).head(0).to_csv(files[0], index=False)
    with pytest.raises(UserError, match="has no rows"):
        read_foreign(config(*files[:2]))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("separator", [";", "\t"])
def test_what_a_spreadsheet_saved_is_read(files: tuple[str, str, str], separator: str, encoding: str) -> None:
    wanted, _ = read_foreign(config(*files[:2]))
    for name in files[:2]:
        pd.read_csv(name).to_csv(name, index=False, sep=separator, decimal=",", encoding=encoding)
    found, _ = read_foreign(config(*files[:2]))
    assert found.key.tolist() == wanted.key.tolist()
    np.testing.assert_allclose(found.scores, wanted.scores, rtol=1e-12)
