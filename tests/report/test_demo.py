import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from sklearn.metrics import roc_auc_score

import report.demo as demo
from configs.grid import parse_grid


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
    members = [config for line in trained for config in parse_grid(line.split()[1:], prog="train.py", description="")]
    assert len({(config.backbone, config.fold, config.model.inputs) for config in members}) == 6
    assert {config.optim.lr for config in members} == {3e-3}, "the recipe of tiny, whatever the backbone"
    assert [line.split(".py")[0] for line in lines[:2]] == ["prep/synthetic", "prep/shard"]
    assert sum("--model.inputs" in line for line in trained) == 2
    assert not any("truth" in line for line in lines)


def test_the_table_shows_whole_names_at_80_columns(
    predicted: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"{backbone}_fold{fold}" for backbone in demo.BACKBONES for fold in (0, 1)]
    for name in names:
        predicted[["image_name", "target"]].to_csv(tmp_path / "submissions" / f"submission_{name}.csv", index=False)
    demo.judge(Console(width=80), minutes=1.0)
    said = capsys.readouterr().out
    assert all(f" {name} " in said for name in [*names, "image_tiny_fold0", "best possible"])
    assert max(map(len, said.splitlines())) <= 80
