import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from simulated import out_of_fold
from sklearn.metrics import average_precision_score, roc_auc_score

from configs.errors import UserError
from evaluation.metrics import MetricsConfig, main, read

ROOT = Path(__file__).resolve().parents[2]
OOF = out_of_fold(400, noise=(0.5,))
NAMED = ["--target", "y", "--score", "p", "--group", "patient", "--source", "year", "--draws", "100"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    rows = {"image_name": OOF.key, "y": OOF.target.astype(int), "p": OOF.scores[0], "patient": OOF.group}
    diagnosis = np.where(OOF.target, "MEL", np.where(np.arange(400) % 4 == 0, "BCC", ""))
    lesion = [f"L{row // 2}" if row % 3 else None for row in range(400)]
    pd.DataFrame({**rows, "year": OOF.source, "dx": diagnosis, "lesion": lesion}).to_csv(
        tmp_path / "p.csv", index=False
    )
    return tmp_path / "p.csv"


def figures(path: Path, *words: str) -> dict[tuple[str, str, str], dict[str, float]]:
    out = path.parent / "new" / "found.json"
    main([str(path), *NAMED, "--out", str(out), *words])
    return {(each["name"], each["part"], each["interval"]): each for each in json.loads(out.read_text())}


def test_the_table_holds_every_figure(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = figures(path, "--diagnosis", "dx", "--lesion", "lesion")
    over_groups, expected = "bootstrap over groups", roc_auc_score(OOF.target, OOF.scores[0])
    assert found["AUC", "merged", "DeLong"]["value"] == pytest.approx(expected)
    assert found["AUC", "merged", over_groups]["low"] < expected < found["AUC", "merged", over_groups]["high"]
    late = OOF.source == 2020
    assert found["AUC", "2020", "DeLong"]["value"] == pytest.approx(
        roc_auc_score(OOF.target[late], OOF.scores[0, late])
    )
    precision = average_precision_score(OOF.target, OOF.scores[0])
    assert found["average precision", "merged", over_groups]["value"] == pytest.approx(precision)
    names = {name for name, _, _ in found}
    assert {"partial AUC", "Brier score", "Brier skill", "slope", "ECE", "sensitivity", "specificity"} <= names
    assert {"ppv", "npv", "specificity without BCC, SCC, AK"} <= names
    parts = {part for name, part, _ in found if name == "AUC"}
    assert parts == {"merged", "2019", "2020", "within sources", "without BCC, SCC, AK", "by lesion"}
    printed = capsys.readouterr().out
    assert f"{expected:.4f}" in printed
    assert "note:" not in printed


def test_the_figures_are_written_as_csv(path: Path) -> None:
    main([str(path), *NAMED, "--out", str(path.parent / "found.csv")])
    rows = pd.read_csv(path.parent / "found.csv")
    assert list(rows) == ["about", "name", "part", "value", "low", "high", "interval"]
    value = rows.loc[(rows["name"] == "AUC") & (rows["part"] == "merged"), "value"].iloc[0]
    assert value == pytest.approx(roc_auc_score(OOF.target, OOF.scores[0]))


def test_scores_that_are_no_probabilities_are_ranked_and_not_calibrated(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = figures(path)
    rows = pd.read_csv(path)
    rows.assign(p=20 * rows["p"] - 4).to_csv(path, index=False)
    found = figures(path)
    key = ("AUC", "merged", "bootstrap over groups")
    assert found[key] == pytest.approx(before[key])
    assert not [each for each in found.values() if each["about"] == "calibration"]
    assert "Calibration: not judged, the scores run from -" in capsys.readouterr().out


def test_sources_may_have_any_labels_and_groups_may_be_absent(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = pd.read_csv(path)
    rows.assign(year=np.where(rows["year"] == 2019, "Vienna", "Barcelona")).to_csv(path, index=False)
    words = [word for word in NAMED if word not in ("--group", "patient")]
    main([str(path), *words])
    printed = capsys.readouterr().out
    assert "Vienna" in printed
    assert "within sources" in printed
    assert "400 groups" in printed
    assert "note: --group names no column" in printed


def edited(path: Path, column: str, value: object) -> None:
    rows = pd.read_csv(path, dtype=object)
    rows.loc[3, column] = value
    rows.to_csv(path, index=False)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("y", "2", "column y, s3: '2', wanted 0 or 1"),
        ("p", "high", "column p, s3: 'high', wanted a number"),
        ("p", "inf", "column p, s3: 'inf', wanted a number"),
        ("p", np.nan, "column p: 1 empty cells, the first for s3"),
        ("patient", np.nan, "column patient: 1 empty cells, the first for s3"),
        ("image_name", "s0", "'s0' is there twice"),
    ],
)
def test_a_bad_cell_is_named(path: Path, column: str, value: object, message: str) -> None:
    edited(path, column, value)
    with pytest.raises(UserError, match=message):
        read(MetricsConfig(file=str(path), target="y", score="p", group="patient"))


def test_rows_without_a_key_are_named_by_their_number(path: Path) -> None:
    edited(path, "p", "high")
    pd.read_csv(path, dtype=object).drop(columns="image_name").to_csv(path, index=False)
    with pytest.raises(UserError, match="column p, row 4: 'high'"):
        read(MetricsConfig(file=str(path), target="y", score="p"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"file": ""}, "no predictions"),
        ({"out": "x.txt"}, "out"),
        ({"draws": 10}, "draws"),
        ({"diagnosis": "dx2"}, "has no column 'dx2'"),
        ({"source": "site"}, "has no column 'site'"),
        ({"target": "one"}, "are of one class"),
    ],
)
def test_settings_that_do_not_fit_are_refused(path: Path, given: dict[str, object], message: str) -> None:
    pd.read_csv(path).assign(one=1).to_csv(path, index=False)
    with pytest.raises(UserError, match=message):
        read(MetricsConfig(**{"file": str(path), "target": "y", "score": "p", **given}))


def test_a_mistake_ends_the_command_in_one_line() -> None:
    command = [sys.executable, "-m", "evaluation.metrics", "absent.csv"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: absent.csv does not exist: give CSV files of predictions\n"
