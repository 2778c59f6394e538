"""Borders are compared on the same rows, member by member, in as many calls as it takes."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from benchmarks.border import BORDERS, WAYS, judged, main
from benchmarks.record import read
from configs.errors import UserError


def table(rows: int) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    years, target = np.arange(rows) % 2 + 2019, rng.integers(0, 2, rows)
    return pd.DataFrame({"source": years, "target": target, "group": np.arange(rows) // 2})


def test_a_better_border_is_above_the_black_one_and_chance_is_not() -> None:
    rows, rng = table(600), np.random.default_rng(1)
    noise = {border: rng.normal(size=(3, 600)) for border in BORDERS}
    scores = {
        border: rows["target"].to_numpy() * (3 if border == "reflect" else 1) + noise[border] for border in BORDERS
    }
    found = judged(rows, scores, (2020,))
    of_year = rows["source"].to_numpy() == 2020
    expected = [roc_auc_score(rows["target"][of_year], row[of_year]) for row in scores["edge"]]
    assert found["edge"]["value"] == pytest.approx(np.mean(expected), abs=1e-4)
    assert found["edge"]["low"] < found["edge"]["value"] < found["edge"]["high"]
    assert found["reflect_minus_constant"]["low"] > 0
    assert found["edge_minus_constant"]["low"] < 0 < found["edge_minus_constant"]["high"]


def test_a_year_of_one_class_has_no_figures() -> None:
    rows = table(20).assign(target=lambda each: (each["source"] == 2019) * 1)
    assert judged(rows, {border: np.ones((1, 20)) for border in BORDERS}, (2020,)) == {}


@pytest.mark.long
def test_members_are_trained_in_pieces_judged_and_not_trained_again(
    shard_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "border.json"
    words = ["--shards", str(shard_folder), "--backbone", "tiny", "--weights", "none", "--runs", str(tmp_path / "runs")]
    words += ["--seeds", "1", "--folds", "2", "--batch-size", "16", "--out", str(out)]
    main([*words, "--epochs", "2", "--minutes", "0.001"])
    assert "0 of 8 members are finished" in capfd.readouterr().out
    assert not out.exists()
    main([*words, "--epochs", "2"])
    record = read(out)
    assert (record["size"], record["seeds"], record["folds"], record["epochs"]) == (64, 1, 2, 2)
    assert set(record["auc"]["merged"]) == {*WAYS, *(f"{way}_minus_constant" for way in WAYS if way != "constant")}
    assert set(record["cost"]) == {"reflect", "edge"}
    found = sorted((tmp_path / "runs").glob("*/seed0/tiny/fold*/last.pt"))
    assert len(found) == 8
    before = [path.stat().st_mtime_ns for path in found]
    main([*words, "--epochs", "2"])
    assert [path.stat().st_mtime_ns for path in found] == before
    predictions = {
        path: pd.read_parquet(path)["pred_last"].tolist() for path in (tmp_path / "runs").rglob("oof.parquet")
    }
    assert len({str(each) for each in predictions.values()}) == 8, "each way trains another member"
    with pytest.raises(UserError, match="was made with epochs=2, now it is 3"):
        main([*words, "--epochs", "3"])
