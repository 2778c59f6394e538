import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from sklearn.metrics import roc_auc_score

import report.demo as demo


@pytest.fixture
def predicted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    """A truth of 400 test rows, and submissions of known worth in another order."""
    rng = np.random.default_rng(0)
    logit = rng.normal(-1, 2, 400)
    names = [f"ISIC_{number:07d}" for number in range(400)]
    target = (rng.random(400) < 1 / (1 + np.exp(-logit))).astype(int)
    truth = pd.DataFrame({"image_name": names, "split": "test", "target": target, "logit": logit})
    other = truth.assign(split="train", image_name=[name.replace("ISIC", "TRAIN") for name in names])
    (tmp_path / "data").mkdir()
    (tmp_path / "submissions").mkdir()
    pd.concat([other, truth]).to_csv(tmp_path / "data" / "truth.csv", index=False)
    noise = {"tiny_fold0": 1.0, "ensemble": 0.5, "image_tiny_fold0": 4.0, "meta_tiny_fold0": 9.0}
    for name, scale in noise.items():
        truth[name] = logit + rng.normal(0, scale, 400)
        shuffled = truth.sample(frac=1, random_state=1)[["image_name", name]].rename(columns={name: "target"})
        shuffled.to_csv(tmp_path / "submissions" / f"submission_{name}.csv", index=False)
    monkeypatch.setattr(demo, "OUT", tmp_path)
    return truth


def test_submissions_are_judged_by_image_name_against_the_truth(predicted: pd.DataFrame, tmp_path: Path) -> None:
    demo.judge(Console(quiet=True), minutes=1.0)
    results = json.loads((tmp_path / "results.json").read_text())
    best = roc_auc_score(predicted["target"], predicted["logit"])
    ensemble = roc_auc_score(predicted["target"], predicted["ensemble"])
    assert results["best_possible"]["value"] == pytest.approx(best, abs=1e-4)
    assert results["auc"]["ensemble"]["value"] == pytest.approx(ensemble, abs=1e-4)
    assert results["covered"] == pytest.approx((ensemble - 0.5) / (best - 0.5), abs=1e-4)
    assert results["tiny_fold0_minus"]["meta"]["low"] > 0
    assert list(results["auc"])[-1] == "ensemble"


def test_the_demo_trains_two_backbones_on_two_folds_and_both_ablations() -> None:
    lines = demo.commands()
    trained = [line for line in lines if line.startswith("train.py")]
    assert len(trained) == 6
    assert [line.split(".py")[0] for line in lines[:2]] == ["prep/synthetic", "prep/shard"]
    assert sum("--model.inputs" in line for line in trained) == 2
    assert not any("truth" in line for line in lines)
