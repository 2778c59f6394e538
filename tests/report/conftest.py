"""A synthetic set, members trained on it and their ensemble, judged: what a report is made of."""

from pathlib import Path

import pytest
from commands import tiny

import infer
import train
from configs.prep import PrepConfig, SyntheticConfig
from prep.build import build
from prep.synth.folder import make


@pytest.fixture(scope="session")
def synthetic_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 training and 40 test images of 48 px in three folds."""
    root = tmp_path_factory.mktemp("synthetic")
    make(SyntheticConfig(out=str(root / "data"), train=400, test=40, size=48, workers=1))
    folders = {f"isic{year}": str(root / "data" / str(year)) for year in (2019, 2020)}
    build(PrepConfig(**folders, out=str(root / "shards"), size=48, folds=3, workers=1))
    return root / "shards"


@pytest.fixture(scope="session")
def trained(synthetic_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tiny on the three folds, judged in RUNS/outputs."""
    runs = tmp_path_factory.mktemp("trained")
    train.main(tiny(synthetic_shards, runs, "--fold", "all", "--epochs", "2", "--patience", "0"))
    words = ["--runs", str(runs), "--shards", str(synthetic_shards), "--out", str(runs / "outputs")]
    infer.main([*words, "--ensemble", "--views", "2"])
    return runs
