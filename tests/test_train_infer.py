"""Training and inference by their own commands, on real shards, with real ranks."""

import contextlib
import fcntl
import json
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import simplejpeg
import torch
import yaml
from commands import ROOT, epoch_lines, must_torchrun, tiny
from conftest import write_isic2020, write_jpeg
from sklearn.metrics import roc_auc_score

import infer
import train
from configs.errors import UserError
from configs.prep import PrepConfig
from engine.checkpoint import load_checkpoint
from engine.data import Data
from engine.interrupt import Stopped
from engine.members import find_members, load_member
from engine.state import RunState
from loaders.batch import Batch
from loaders.order import permutation
from loaders.shards import ShardSet
from prep.build import build

BACKBONES = ("efficientnet_b1", "efficientnet_b3", "efficientnet_b4", "resnest50", "vit_tiny_patch16_224")


@pytest.fixture(scope="module")
def runs(shard_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fold 0 trained by two ranks over gloo, fold 1 by one process: three epochs each."""
    out = tmp_path_factory.mktemp("runs")
    must_torchrun(2, "train.py", *tiny(shard_folder, out, "--fold", "0", "--epochs", "3"))
    train.main(tiny(shard_folder, out, "--fold", "1", "--epochs", "3"))
    return out


@pytest.mark.parametrize("fold", [0, 1])
def test_a_member_holds_everything_about_itself(runs: Path, shard_folder: Path, fold: int) -> None:
    folder = runs / "tiny" / f"fold{fold}"
    oof = pd.read_parquet(folder / "oof.parquet")
    rows = pd.read_parquet(shard_folder / "samples.parquet").set_index("key")
    assert set(oof["key"]) == set(rows.index[rows["fold"] == fold])
    assert oof["key"].is_unique
    np.testing.assert_array_equal(oof["target"], rows.loc[oof["key"], "target"])
    lines = epoch_lines(folder)
    assert [line["epoch"] for line in lines] == [0, 1, 2]
    assert lines[-1]["auc"] == pytest.approx(roc_auc_score(oof["target"], oof["pred_last"]))
    assert max(line["auc"] for line in lines) == pytest.approx(roc_auc_score(oof["target"], oof["pred_best"]))
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    assert settings["config"]["fold"] == fold
    assert settings["versions"]["torch"] == torch.__version__
    assert list(folder.glob("events.*"))
    assert not list(folder.glob("*.tmp"))


def test_two_ranks_save_the_model_that_they_evaluated(runs: Path, shard_folder: Path) -> None:
    """The saved network, alone, predicts what both ranks together predicted for the held-out fold."""
    member = load_member(find_members(runs)[0], "best", torch.device("cpu"))
    shards = ShardSet(shard_folder)
    rows = shards.fold_rows(0)
    images = np.stack([simplejpeg.decode_jpeg(shards.jpeg(row)) for row in rows])
    with torch.inference_mode():
        logits = member.network(torch.from_numpy(images), torch.from_numpy(shards.meta("clinical")[rows]))
    oof = pd.read_parquet(runs / "tiny" / "fold0" / "oof.parquet")
    np.testing.assert_allclose(torch.sigmoid(logits[:, 0]).numpy(), oof["pred_best"], atol=0.01)


def test_a_non_finite_loss_ends_the_run_with_the_remedy(shard_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tiny" / "fold0"
    words = tiny(shard_folder, tmp_path, "--optim.lr", "1e30", "--optim.warmup_epochs", "0", "--save-every", "1")
    message = r"the loss is (nan|inf) at step (\d) of epoch 1, learning rate \S+, samples \d+, .*"
    with pytest.raises(UserError, match=message + r"lower --optim\.lr \(now 1e\+30\)") as raised:
        train.main(words)
    facts = json.loads((folder / "nonfinite.json").read_text())
    step = int(re.search(message, str(raised.value))[2])  # type: ignore[index]
    assert facts["step"] + 1 == step > 1
    order = permutation(93, 0, 0)[16 * (step - 1) : 16 * step]
    shards = ShardSet(shard_folder)
    assert facts["index"] == shards.train_rows(0)[order].tolist()
    assert facts["key"] == [str(shards.key[int(row)]) for row in facts["index"]]
    saved = load_checkpoint(folder / "last.pt", torch.device("cpu"))
    assert saved["step"] < step
    assert all(value.isfinite().all() for value in saved["model"].values())


def test_a_fold_without_melanoma_is_refused(tmp_path: Path) -> None:
    folder = write_isic2020(tmp_path / "2020", 24, 2)
    csv = (folder / "train.csv").read_text()
    (folder / "train.csv").write_text(csv.replace("melanoma,malignant,1", "nevus,benign,0", 4))
    build(PrepConfig(isic2020=str(folder), out=str(tmp_path / "set"), size=32, folds=4, workers=1))
    shards = ShardSet(tmp_path / "set")
    empty = next(fold for fold in range(4) if not shards.target[shards.fold_rows(fold)].any())
    with pytest.raises(UserError, match=f"the held-out rows of fold {empty} contain 0 melanomas"):
        train.main(tiny(tmp_path / "set", tmp_path / "out", "--fold", str(empty)))


def test_on_a_terminal_a_live_line_shows_speed_loss_auc_and_wait(shard_folder: Path, tmp_path: Path) -> None:
    terminal, screen = pty.openpty()
    fcntl.ioctl(screen, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 160, 0, 0))
    words = tiny(shard_folder, tmp_path, "--epochs", "2", "--batch-size", "4")
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "160"}
    process = subprocess.Popen([sys.executable, "train.py", *words], cwd=ROOT, env=environment, stdout=screen)
    os.close(screen)
    shown = b""
    with contextlib.suppress(OSError):  # what Linux raises when the other end of a terminal closes
        while part := os.read(terminal, 4096):
            shown += part
    os.close(terminal)
    assert process.wait(timeout=300) == 0
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode())
    assert re.search(r"epoch 2/2 .* img/s  loss \S+  AUC 0\.\d{4} waiting", text)
    assert re.search(r"best auc 0\.\d{4} in epoch", text)


def test_a_finished_member_is_left_alone(runs: Path, shard_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in (runs / "tiny" / "fold1").iterdir()}
    train.main(tiny(shard_folder, runs, "--fold", "1", "--epochs", "3"))
    assert "nothing to do" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in (runs / "tiny" / "fold1").iterdir()} == before


@pytest.mark.parametrize(
    ("option", "was", "now"),
    [("seed", "0", "9"), ("optim.lr", "0.003", "0.5"), ("augment.border", "'constant'", "'edge'")],
)
def test_a_member_with_other_settings_is_not_overwritten(
    option: str, was: str, now: str, runs: Path, shard_folder: Path
) -> None:
    with pytest.raises(UserError, match=rf"was made with {option}={was}, now it is {now}: choose another --out"):
        train.main(tiny(shard_folder, runs, "--fold", "1", "--epochs", "3", f"--{option}", now.strip("'")))


def corrupted_copy(shards: Path, out: Path, split: str) -> str:
    """A copy of a shard set with one corrupt sample, of the test split or held out in fold 0; returns its key."""
    shutil.copytree(shards, out)
    rows = pd.read_parquet(out / "samples.parquet")
    row = rows[(rows["split"] == split) & (rows["fold"] == (0 if split == "train" else -1))].iloc[1]
    content = bytearray((out / row["shard"]).read_bytes())
    content[row["offset"] + 150] ^= 1
    (out / row["shard"]).write_bytes(content)
    return str(row["key"])


@pytest.mark.parametrize("cache", ["none", "ram"])
def test_a_corrupt_sample_ends_training_or_is_left_out(
    cache: str, shard_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = corrupted_copy(shard_folder, tmp_path / "corrupt", "train")
    words = tiny(tmp_path / "corrupt", tmp_path / "runs", "--epochs", "2", "--loader.cache", cache)
    with pytest.raises(UserError, match=f"sample {key} at byte .* is corrupt"):
        train.main(words)
    train.main([*words, "--loader.on-bad", "substitute"])
    folder = tmp_path / "runs" / "tiny" / "fold0"
    rows = pd.read_parquet(shard_folder / "samples.parquet")
    oof = pd.read_parquet(folder / "oof.parquet")
    assert set(oof["key"]) == set(rows.loc[rows["fold"] == 0, "key"]) - {key}
    assert oof[["pred_last", "pred_best"]].notna().all(axis=None)
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["damaged"] == 1
    assert last["wait_ms_p50"] <= last["wait_ms_p99"]
    output = capsys.readouterr().out
    assert re.search(r"data (kept up|bounds this run): \d+% of the time went into waiting", output)
    assert ("loader.cache=ram: 140 images" in output) == (cache == "ram")


def test_a_corrupt_test_image_is_left_out_and_reported(
    runs: Path, shard_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = corrupted_copy(shard_folder, tmp_path / "corrupt", "test")
    words = ["--runs", str(runs), "--shards", str(tmp_path / "corrupt"), "--out", str(tmp_path / "out")]
    with pytest.raises(UserError, match=f"sample {key} at byte .* is corrupt"):
        infer.main(words)
    infer.main([*words, "--ensemble", "--loader.on-bad", "substitute"])
    assert f"1 of 9 images have no prediction, first {key}" in capsys.readouterr().out
    rows = pd.read_parquet(shard_folder / "samples.parquet")
    names = pd.read_csv(tmp_path / "out" / "submission_ensemble.csv")["image_name"]
    assert set(names) == set(rows.loc[rows["split"] == "test", "key"]) - {key}


@pytest.fixture(scope="module")
def eight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shard set of 64 px with two folds of 8 training samples and 8 test samples."""
    root = tmp_path_factory.mktemp("eight")
    folder = write_isic2020(root / "2020", 16, 8)
    build(PrepConfig(isic2020=str(folder), out=str(root / "set"), size=64, folds=2, workers=1))
    return root / "set"


@pytest.mark.parametrize(
    "backbone", ["efficientnet_b1", *(pytest.param(name, marks=pytest.mark.long) for name in BACKBONES[1:])]
)
def test_each_backbone_trains_two_steps_and_infers_on_eight_images(backbone: str, eight: Path, tmp_path: Path) -> None:
    words = ["--backbone", backbone, "--shards", str(eight), "--out", str(tmp_path / "runs")]
    train.main([*words, "--weights", "none", "--batch-size", "4", "--epochs", "1"])
    (line,) = epoch_lines(tmp_path / "runs" / backbone / "fold0")
    assert np.isfinite(line["train_loss"])
    infer.main(["--runs", str(tmp_path / "runs"), "--shards", str(eight), "--out", str(tmp_path), "--views", "2"])
    submission = pd.read_csv(tmp_path / f"submission_{backbone}_fold0.csv")
    assert len(submission) == 8
    assert submission["target"].between(0, 1).all()


@pytest.mark.parametrize("kind", ["image", "meta"])
def test_the_ablations_train_and_infer(kind: str, eight: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if kind == "meta":  # it must not read any image
            patch.setattr(ShardSet, "jpegs", lambda *_: pytest.fail("an image was read"))
        train.main(tiny(eight, tmp_path / "runs", "--model.inputs", kind, "--epochs", "1", "--model.meta", "reference"))
    infer.main(["--runs", str(tmp_path / "runs"), "--shards", str(eight), "--out", str(tmp_path)])
    assert len(pd.read_csv(tmp_path / "submission_tiny_fold0.csv")) == 8


def test_a_member_of_another_image_size_is_refused(runs: Path, downloads: tuple[Path, Path], tmp_path: Path) -> None:
    isic2020, isic2019 = map(str, downloads)
    build(PrepConfig(isic2020=isic2020, isic2019=isic2019, out=str(tmp_path / "set"), size=32, folds=3, workers=1))
    with pytest.raises(UserError, match=r"trained at 64 px, but .* 32 px: pass a shard set built with --size 64"):
        infer.main(["--runs", str(runs), "--shards", str(tmp_path / "set"), "--out", str(tmp_path)])


def test_no_member_and_no_test_rows_are_reported(
    runs: Path, shard_folder: Path, downloads: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="no trained member"):
        infer.main(["--runs", str(tmp_path), "--shards", str(shard_folder)])
    build(PrepConfig(isic2019=str(downloads[1]), out=str(tmp_path / "set"), size=64, folds=3, workers=1))
    with pytest.raises(UserError, match="no test images"):
        infer.main(["--runs", str(runs), "--shards", str(tmp_path / "set"), "--out", str(tmp_path)])


def test_an_outside_set_gets_its_own_files_and_an_unsafe_set_is_reported(
    downloads: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(4):
        write_jpeg(tmp_path / "clinic" / f"mole{number}.jpg", 30_000 + number)
    lines = [f"mole{number}.jpg,{number % 2}" for number in range(4)]
    (tmp_path / "clinic" / "extra.csv").write_text("\n".join(["image,target", *lines]) + "\n")
    isic2020, isic2019 = map(str, downloads)
    config = PrepConfig(isic2020=isic2020, isic2019=isic2019, out=str(tmp_path / "set"), size=64, folds=3, workers=1)
    build(replace(config, extra=str(tmp_path / "clinic" / "extra.csv"), fold_scheme="random"))
    capsys.readouterr()
    train.main(tiny(tmp_path / "set", tmp_path / "runs", "--epochs", "1"))
    assert "set was made with --fold-scheme random" in capsys.readouterr().out
    places = ["--runs", str(tmp_path / "runs"), "--shards", str(tmp_path / "set"), "--out", str(tmp_path / "out")]
    infer.main([*places, "--split", "extra", "--ensemble"])
    files = sorted(path.name for path in (tmp_path / "out").glob("*.csv"))
    assert files == ["extra_ensemble.csv", "extra_tiny_fold0.csv"]
    build(replace(config, extra=str(tmp_path / "clinic" / "extra.csv"), extra_role="train", out=str(tmp_path / "more")))
    rows = pd.read_parquet(tmp_path / "more" / "samples.parquet")
    fold = str(rows.loc[rows["source"] == 0, "fold"].iloc[0])
    train.main(tiny(tmp_path / "more", tmp_path / "joined", "--epochs", "1", "--fold", fold))
    assert 0 in set(pd.read_parquet(tmp_path / "joined" / "tiny" / f"fold{fold}" / "oof.parquet")["source"])
    table = pd.read_csv(tmp_path / "out" / "extra_ensemble.csv")
    assert table["image_name"].tolist() == ["mole0", "mole1", "mole2", "mole3"]


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("placement", "more"),
    [
        ("dali-gpu", ()),
        ("host", ("--optim.ema", "0.9", "--optim.clip_grad", "1", "--accumulate", "2")),
        ("host", ("--speed.compile", "on", "--speed.cuda_graph", "on")),
        ("dali-gpu", ("--speed.cuda_graph", "on", "--optim.auxiliary_weight", "0.5")),
        ("dali-gpu", ("--precision", "fp16", "--speed.memory_format", "contiguous")),
    ],
)
def test_a_gpu_trains_resumes_and_infers(
    placement: str, more: tuple[str, ...], shard_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = tiny(shard_folder, tmp_path / "runs", "--epochs", "2", "--device", "cuda", "--loader.placement", placement)
    original = Data.train_batches

    def stopped_within_the_second(data: Data, state: RunState) -> Iterator[Batch]:
        for batch in original(data, state):
            if state.epoch == 1 and state.step == 3:
                raise Stopped
            yield batch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Data, "train_batches", stopped_within_the_second)
        train.main([*words, *more])
    train.main([*words, *more])
    output = capsys.readouterr().out
    assert "continuing after step 3 of epoch 2" in output
    assert "continuing without" not in output
    places = ["--runs", str(tmp_path / "runs"), "--shards", str(shard_folder), "--out", str(tmp_path)]
    infer.main([*places, "--device", "cuda", "--loader.placement", placement])
    assert pd.read_csv(tmp_path / "submission_tiny_fold0.csv")["target"].between(0, 1).all()


def test_a_batch_that_ranks_cannot_share_ends_every_rank(shard_folder: Path, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    with pytest.raises(AssertionError, match="gives each rank 1 samples in 1 part"):
        must_torchrun(2, "train.py", *tiny(shard_folder, tmp_path / "out", "--batch-size", "2"))
