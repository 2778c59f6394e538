"""The plain trainer is the same recipe, and the comparison with it says what it measures."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

from benchmarks.peers.plain_torch import Net, transforms
from benchmarks.trainer import compared, export
from configs.schema import ModelConfig
from models.fusion import build_model

ROOT = Path(__file__).resolve().parents[2]
TINY = "test_efficientnet.r160_in1k"


@pytest.mark.filterwarnings("ignore:ShiftScaleRotate is a special case")
def test_its_network_is_ours_with_the_same_weights() -> None:
    ours = build_model("tiny", ModelConfig(), size=64, meta_features=11, weights="none")
    plain = Net(TINY, 11)
    weights = {name.replace("head.linear.", "head."): value for name, value in ours.state_dict().items()}
    plain.load_state_dict({name: value for name, value in weights.items() if not name.startswith("normalise")})
    pixels = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
    meta = torch.randn(4, 11)
    _, evaluation = transforms(TINY, 0)
    images = torch.stack([evaluation(image=image)["image"] for image in pixels])
    with torch.inference_mode():
        expected = ours.eval()(torch.from_numpy(pixels), meta)[:, 0]
        torch.testing.assert_close(plain.eval()(images, meta), expected, atol=1e-4, rtol=1e-4)


def test_it_trains_and_predicts_every_held_out_sample(shard_folder: Path, tmp_path: Path) -> None:
    table = export(shard_folder, tmp_path / "data")
    words = ["-m", "benchmarks.peers.plain_torch", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "out.csv")]
    done = subprocess.run(
        [sys.executable, *words, "--epochs", "1", "--batch-size", "16", "--workers", "1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = pd.read_csv(tmp_path / "out.csv")
    assert found["key"].tolist() == table.loc[table["fold"] == 0, "key"].tolist()
    assert f"AUC {roc_auc_score(found['target'], found['pred_last']):.4f}" in done.stdout


def test_the_exported_pictures_are_those_of_the_shards(shard_folder: Path, tmp_path: Path) -> None:
    from loaders.shards import ShardSet

    table, shards = export(shard_folder, tmp_path), ShardSet(shard_folder)
    rows = {str(key): number for number, key in enumerate(shards.key.to_pylist())}
    assert len(table) == (shards.fold >= 0).sum()
    for key in table["key"]:
        assert (tmp_path / "images" / f"{key}.jpg").read_bytes() == bytes(shards.jpeg(rows[key]))
    some = export(shard_folder, tmp_path / "some", most=30)
    assert 20 < len(some) <= 30
    assert set(some["fold"]) == {0, 1, 2}


def test_the_comparison_is_of_the_named_years_alone() -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"source": [2019, 2020] * 100, "target": rng.integers(0, 2, 200), "group": range(200)})
    scores = {name: rng.random((2, 200)) for name in ("ours", "plain")}
    found = compared(table, scores, (2020,))
    rows = table["source"] == 2020
    assert found["ours"] == [round(roc_auc_score(table["target"][rows], row[rows]), 4) for row in scores["ours"]]
    gap = found["ours_minus_plain"]
    assert gap["low"] < gap["value"] < gap["high"]
