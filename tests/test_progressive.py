"""Whole runs whose first epochs train on smaller images: the switch, resuming at it, any number of ranks."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import assert_same_run, epoch_lines, must_torchrun, step_lines, tiny
from test_recipes import script_metric
from test_resume import signalled_after, started

import train
from configs.errors import UserError
from configs.schema import ProgressiveConfig, TrainConfig
from engine.checkpoint import load_checkpoint
from engine.data import Data
from engine.state import RunState
from engine.step import Step
from loaders.batch import Batch

SMALLER = ("--progressive.epochs", "1", "--progressive.size", "48")
# Six steps per epoch, of images of 48 px in the first one, of 64 px in the second.
WORDS = ("--epochs", "2", "--fold", "2", "--log-every", "1", "--save-every", "2", "--optim.ema", "0.9", *SMALLER)


@pytest.fixture(scope="module")
def undisturbed(shard_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed")
    process = started(tiny(shard_folder, out, *WORDS))
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert "epoch 1/2  48 px  loss" in output
    assert "epoch 2/2  64 px  loss" in output
    return out / "tiny" / "fold2"


def test_the_records_say_the_size_of_an_epoch(undisturbed: Path) -> None:
    assert [line["image_size"] for line in epoch_lines(undisturbed)] == [48, 64]


def test_training_has_the_epochs_size_and_evaluation_the_full_one(
    shard_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[tuple[int, int]] = []
    judged: list[int] = []
    step, fold = Step.__call__, Data.fold_batches

    def noted(self: Step, batch: Batch) -> torch.Tensor:
        trained.append((batch.epoch, batch.image.shape[1]))
        return step(self, batch)

    def judging(self: Data) -> Iterator[Batch]:
        for batch in fold(self):
            judged.append(batch.image.shape[1])
            yield batch

    monkeypatch.setattr(Step, "__call__", noted)
    monkeypatch.setattr(Data, "fold_batches", judging)
    train.main(tiny(shard_folder, tmp_path, *WORDS))
    assert set(trained) == {(0, 48), (1, 64)}
    assert set(judged) == {64}


@pytest.mark.long
def test_a_run_killed_before_and_stopped_after_the_switch_ends_like_an_undisturbed_one(
    shard_folder: Path, tmp_path: Path, undisturbed: Path
) -> None:
    words, folder = tiny(shard_folder, tmp_path, *WORDS), tmp_path / "tiny" / "fold2"
    process = started(words)
    signalled_after(process, folder, 2, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert len(epoch_lines(folder)) == 0
    process = started(words)
    output = signalled_after(process, folder, 6, signal.SIGTERM)
    assert process.returncode == 0, output
    assert "stopped by SIGTERM after step " in output
    process = started(words)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert_same_run(undisturbed, folder)


@pytest.mark.parametrize(("epoch", "step"), [(0, 6), (1, 1)])
def test_a_run_stopped_at_the_switch_ends_like_an_undisturbed_one(
    epoch: int, step: int, shard_folder: Path, tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the last step on smaller images, and after the first on full ones."""
    original = Data.train_batches

    def signalled(data: Data, state: RunState) -> Iterator[Batch]:
        for batch in original(data, state):
            if (state.epoch, state.step + 1) == (epoch, step):
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    words = tiny(shard_folder, tmp_path, *WORDS)
    monkeypatch.setattr("engine.distributed.usable_cores", lambda: 1)
    with monkeypatch.context() as patch:
        patch.setattr(Data, "train_batches", signalled)
        train.main(words)
    folder = tmp_path / "tiny" / "fold2"
    saved = load_checkpoint(folder / "last.pt", torch.device("cpu"))
    assert (saved["epoch"], saved["step"]) == (epoch, step)
    train.main(words)
    assert_same_run(undisturbed, folder)


@pytest.mark.parametrize(("name", "value", "was"), [("size", "40", "48"), ("epochs", "0", "1")])
def test_a_resume_with_other_sizes_is_refused(
    name: str, value: str, was: str, shard_folder: Path, undisturbed: Path
) -> None:
    out = undisturbed.parent.parent
    with pytest.raises(UserError, match=rf"was made with progressive\.{name}={was}, now it is {value}"):
        train.main(tiny(shard_folder, out, *WORDS, f"--progressive.{name}", value))


def test_epochs_on_smaller_images_do_not_end_the_training(
    shard_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_metric(monkeypatch, "auc", [0.9, 0.8, 0.7, 0.6, 0.6])
    words = ["--epochs", "5", "--patience", "1", "--progressive.epochs", "3", "--progressive.size", "32"]
    train.main(tiny(shard_folder, tmp_path, *words))
    assert [line["image_size"] for line in epoch_lines(tmp_path / "tiny" / "fold0")] == [32, 32, 32, 64]


@pytest.mark.long
def test_two_ranks_train_on_the_batches_of_one(shard_folder: Path, tmp_path: Path) -> None:
    """Without batch statistics and dropout, which differ by rank, each step's loss is the same."""
    words = ["--shards", str(shard_folder), "--backbone", "test_convnext.r160_in1k", "--weights", "none", "--fold", "0"]
    words += ["--model.inputs", "image", "--model.head_drop", "0", "--batch-size", "16", "--epochs", "2"]
    words += ["--log-every", "1", *SMALLER]
    train.main([*words, "--out", str(tmp_path / "one")])
    must_torchrun(2, "train.py", *words, "--out", str(tmp_path / "two"))
    one, two = (step_lines(tmp_path / name / "test_convnext.r160_in1k" / "fold0") for name in ("one", "two"))
    assert len(one) == 12
    assert [line["loss"] for line in two] == pytest.approx([line["loss"] for line in one], abs=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 3, "progressive": {"epochs": 3}}, "progressive.epochs=3 is out of range: give fewer than the 3"),
        ({"progressive": {"epochs": 1, "size": 31}}, "progressive.size=31 is out of range: give 32 or more"),
        ({"progressive": {"epochs": -1}}, "progressive.epochs=-1 is out of range: give 0 or more"),
    ],
)
def test_values_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        TrainConfig(**{**options, "progressive": ProgressiveConfig(**options["progressive"])})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--progressive.size", "64"], r"progressive\.size=64 does not fit the 64 px of \S+: give 32 to 63"),
        (["--model.inputs", "meta"], "progressive.epochs=1 is out of range: give 0 with --model.inputs meta"),
        (["--backbone", "test_vit.r160_in1k"], "backbone=test_vit.r160_in1k takes images of one size only"),
    ],
)
def test_what_cannot_be_trained_in_two_sizes_is_refused(
    words: list[str], message: str, shard_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        train.main(tiny(shard_folder, tmp_path, "--weights", "none", *SMALLER, *words))
