"""Options beyond the reference recipe, on real shards."""

import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from commands import ROOT, epoch_lines, must_torchrun, tiny
from sklearn.metrics import roc_auc_score

import infer
import train
from configs.errors import UserError
from configs.schema import TrainConfig
from engine.checkpoint import load_checkpoint, save_checkpoint
from engine.distributed import Ranks
from engine.memory import explained_memory
from engine.run import Run, open_run
from engine.step import Step
from loaders.batch import Batch
from loaders.shards import ShardSet
from prep.diagnosis import CLASSES

CPU = torch.device("cpu")
ALONE = Ranks(rank=0, world_size=1, local_rank=0, local_world_size=1, device=CPU)


def folder_of(out: Path, fold: int | str = 0) -> Path:
    return out / "tiny" / f"fold{fold}"


@pytest.mark.parametrize("words", [("--target", "diagnosis"), ("--optim.auxiliary_weight", "0.5")])
def test_each_diagnosis_has_an_auc_and_melanoma_is_submitted(
    words: tuple[str, ...], shard_folder: Path, tmp_path: Path
) -> None:
    train.main(tiny(shard_folder, tmp_path / "runs", "--epochs", "2", *words))
    folder = folder_of(tmp_path / "runs")
    last = epoch_lines(folder)[-1]
    shards = ShardSet(shard_folder)
    present = {CLASSES[number] for number in np.unique(shards.diagnosis[shards.fold_rows(0)])}
    evaluated = {
        name.removeprefix("auc_") for name, value in last.items() if name.startswith("auc_") and value is not None
    }
    assert evaluated == present | {"2019", "2020"}
    oof = pd.read_parquet(folder / "oof.parquet")
    assert last["auc"] == pytest.approx(roc_auc_score(oof["target"], oof["pred_last"]))
    infer.main(["--runs", str(tmp_path / "runs"), "--shards", str(shard_folder), "--out", str(tmp_path)])
    assert pd.read_csv(tmp_path / "submission_tiny_fold0.csv")["target"].between(0, 1).all()


@pytest.mark.parametrize("year", ["2019", "2020"])
def test_one_year_is_trained_on_and_both_are_evaluated(year: str, shard_folder: Path, tmp_path: Path) -> None:
    config = TrainConfig(
        backbone="tiny", weights="none", shards=str(shard_folder), out=str(tmp_path), batch_size=16, train_sources=year
    )
    with open_run(config, ALONE) as run:
        trained = torch.cat([batch.index[batch.valid] for batch in run.data.train_batches(run.state)])
        evaluated = torch.cat([batch.index[batch.valid] for batch in run.data.fold_batches()])
        samples = run.data.samples
        source, target = samples.shards.source, samples.shards.target
        assert set(source[trained.numpy()]) == {int(year)}
        assert set(source[evaluated.numpy()]) == {2019, 2020}
        rows = np.flatnonzero((source == int(year)) & (samples.shards.fold > 0))
        assert sorted(trained.tolist()) == rows.tolist()
        assert samples.positive_weight == pytest.approx((target[rows] == 0).sum() / (target[rows] == 1).sum())


def test_the_moving_average_is_evaluated_and_saved(shard_folder: Path, tmp_path: Path) -> None:
    train.main(tiny(shard_folder, tmp_path / "ema", "--epochs", "1", "--optim.ema", "0.9"))
    train.main(tiny(shard_folder, tmp_path / "plain", "--epochs", "1"))
    last, best = (load_checkpoint(folder_of(tmp_path / "ema") / name, CPU) for name in ("last.pt", "best.pt"))
    plain = load_checkpoint(folder_of(tmp_path / "plain") / "last.pt", CPU)
    name = "head.linear.weight"
    torch.testing.assert_close(last["model"][name], plain["model"][name])
    assert torch.equal(best["model"][name], last["average"][name])
    assert not torch.allclose(best["model"][name], last["model"][name])


def test_parts_of_a_batch_train_like_the_whole_without_batch_statistics(shard_folder: Path, tmp_path: Path) -> None:
    words = ["--shards", str(shard_folder), "--backbone", "test_vit.r160_in1k", "--weights", "none", "--epochs", "1"]
    words += ["--model.inputs", "image", "--model.head_drop", "0", "--batch-size", "16"]
    states = []
    for parts in ("1", "4"):
        train.main([*words, "--accumulate", parts, "--out", str(tmp_path / parts)])
        states.append(load_checkpoint(tmp_path / parts / "test_vit.r160_in1k" / "fold0" / "last.pt", CPU)["model"])
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, atol=2e-4, rtol=0.0, msg=name)


@pytest.mark.parametrize(("parts", "message"), [("3", "into equal parts"), ("16", "fewer than 2 per part")])
def test_parts_that_do_not_fit_are_refused(parts: str, message: str, shard_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        train.main(tiny(shard_folder, tmp_path, "--accumulate", parts))


def test_half_precision_trains_on_a_cpu_too(shard_folder: Path, tmp_path: Path) -> None:
    train.main(tiny(shard_folder, tmp_path, "--epochs", "1", "--precision", "bf16", "--optim.clip_grad", "1"))
    assert np.isfinite(epoch_lines(folder_of(tmp_path))[0]["train_loss"])


def test_the_monitored_metric_selects_the_best_epoch(
    shard_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_metric(monkeypatch, "loss", [0.9, 0.5, 0.7, 0.6])
    train.main(tiny(shard_folder, tmp_path, "--epochs", "4", "--monitor", "loss", "--patience", "2"))
    best = load_checkpoint(folder_of(tmp_path) / "best.pt", CPU)["best"]
    assert best == {"epoch": 1, "score": 0.5}
    assert len(epoch_lines(folder_of(tmp_path))) == 4


def test_early_stopping_ends_a_run_that_no_longer_improves(
    shard_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_metric(monkeypatch, "auc", [0.6, 0.7, 0.65, 0.7, 0.9])
    train.main(tiny(shard_folder, tmp_path, "--epochs", "5", "--patience", "2"))
    assert [line["auc"] for line in epoch_lines(folder_of(tmp_path))] == [0.6, 0.7, 0.65, 0.7]


def script_metric(monkeypatch: pytest.MonkeyPatch, name: str, values: list[float]) -> None:
    """Let each epoch's evaluation return the next of `values` as the metric `name`."""
    original, left = Run.validate, iter(values)

    def scripted(run: Run) -> tuple[object, dict[str, float]]:
        predictions, metrics = original(run)
        return predictions, {**metrics, name: next(left)}

    monkeypatch.setattr(Run, "validate", scripted)


RANKS_DISAGREE = """
import sys
sys.path.insert(0, {root!r})
import train
from configs.cli import run_command
from engine.run import Run

original = Run.validate

def disagreeing(run):
    predictions, metrics = original(run)
    rising = run.state.epoch / 10  # the first rank sees no progress, the second one does
    return predictions, {{**metrics, "auc": 0.6 if run.ranks.first else 0.6 + rising}}

Run.validate = disagreeing
run_command(train.main)
"""


@pytest.mark.long
def test_early_stopping_is_decided_once_for_all_ranks(shard_folder: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(RANKS_DISAGREE.format(root=str(ROOT)))
    output = must_torchrun(2, str(script), *tiny(shard_folder, tmp_path, "--epochs", "9", "--patience", "2"))
    assert len(epoch_lines(folder_of(tmp_path))) == 3
    assert "best auc 0.6000 in epoch 1" in output


def test_a_grid_trains_what_is_left_and_ends_with_a_table(
    shard_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--shards", str(shard_folder), "--out", str(tmp_path), "--batch-size", "16", "--epochs", "1"]
    words += ["--weights", "none"]
    train.main([*words, "--backbone", "tiny", "--fold", "1"])
    capsys.readouterr()
    train.main([*words, "--backbone", "tiny", "test_resnet.r160_in1k", "--fold", "all"])
    output = capsys.readouterr().out
    assert output.count("nothing to do") == 1
    folders = {
        name: [tmp_path / name / f"fold{fold}" for fold in range(3)] for name in ("tiny", "test_resnet.r160_in1k")
    }
    for name, members in folders.items():
        oof = pd.concat([pd.read_parquet(folder / "oof.parquet") for folder in members])
        assert len(oof) == 140
        mean = np.mean([epoch_lines(folder)[-1]["auc"] for folder in members])
        assert f"{mean:.4f}" in output
        assert f"{roc_auc_score(oof['target'], oof['pred_last']):.4f}" in output, name


def test_without_a_held_out_fold_all_training_rows_are_trained_on(shard_folder: Path, tmp_path: Path) -> None:
    config = TrainConfig(
        backbone="tiny", weights="none", shards=str(shard_folder), out=str(tmp_path), batch_size=16, fold=None
    )
    with open_run(config, ALONE) as run:
        trained = torch.cat([batch.index[batch.valid] for batch in run.data.train_batches(run.state)])
        shards = run.data.samples.shards
        rows = shards.split_rows("train")
        assert sorted(trained.tolist()) == rows.tolist()
        assert run.data.samples.positive_weight == (shards.target[rows] == 0).sum() / (shards.target[rows] == 1).sum()


def test_a_member_without_a_held_out_fold_is_its_last_checkpoint(
    shard_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of(tmp_path, "none")
    words = tiny(shard_folder, tmp_path, "--epochs", "3", "--patience", "1", "--fold", "none")
    train.main(words)
    assert capsys.readouterr().out.count("AUC") == 0
    names = {path.name for path in folder.iterdir() if not path.name.startswith("events.")}
    assert names == {"last.pt", "metrics.jsonl", "training_curves.png", "config.yaml", "train.lock", "train.writer"}
    lines = epoch_lines(folder)
    assert [line["epoch"] for line in lines] == [0, 1, 2]
    assert not {"auc", "auc_2019", "auc_2020", "loss"} & lines[-1].keys()
    assert all(np.isfinite(line["train_loss"]) for line in lines)
    assert yaml.safe_load((folder / "config.yaml").read_text())["config"]["fold"] is None
    saved = load_checkpoint(folder / "last.pt", CPU)
    assert (saved["finished"], saved["epoch"], saved["config"]["fold"]) == (True, 3, None)
    train.main(words)
    assert "foldnone is finished (epoch 3, no fold held out): nothing to do" in capsys.readouterr().out


def test_a_grid_leaves_the_member_without_a_held_out_fold_out_of_its_means(
    shard_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train.main(tiny(shard_folder, tmp_path, "--epochs", "1", "--fold", "0", "none", "1"))
    table = capsys.readouterr().out.split("held-out folds")[1]
    rows = [re.findall(r"[^\s│]+", line) for line in table.splitlines() if "tiny" in line]
    assert [row[1] for row in rows] == ["0", "none", "1", "mean", "sd", "pooled"]
    assert rows[1] == ["tiny", "none", "1", "-", "-", "-"]
    folders = [folder_of(tmp_path, fold) for fold in (0, 1)]
    assert rows[3][2] == f"{np.mean([epoch_lines(folder)[-1]['auc'] for folder in folders]):.4f}"
    oof = pd.concat([pd.read_parquet(folder / "oof.parquet") for folder in folders])
    assert rows[5][2] == f"{roc_auc_score(oof['target'], oof['pred_last']):.4f}"


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_running_out_of_memory_names_the_settings(error: Exception) -> None:
    config = TrainConfig(backbone="tiny", accumulate=2, batch_size=64)
    with (
        pytest.raises(UserError, match=r"--accumulate 4 \(now 2; the global batch stays 64\)"),
        explained_memory(config, ALONE),
    ):
        raise error
    with pytest.raises(RuntimeError, match="another error"), explained_memory(config, ALONE):
        raise RuntimeError("another error")


def test_running_out_of_memory_in_a_step_is_explained_and_the_checkpoint_continues(
    shard_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Step.__call__

    def out_of_memory(step: Step, batch: Batch) -> torch.Tensor:
        if batch.step == 4:
            torch.empty(1 << 60)
        return original(step, batch)

    words = tiny(shard_folder, tmp_path, "--epochs", "1", "--save-every", "3", "--log-every", "1")
    with monkeypatch.context() as patch:
        patch.setattr(Step, "__call__", out_of_memory)
        with pytest.raises(UserError, match=r"out of memory with --backbone tiny; earlier checkpoints are kept"):
            train.main(words)
    assert load_checkpoint(folder_of(tmp_path) / "last.pt", CPU)["step"] == 3
    train.main([*words, "--accumulate", "2"])
    assert load_checkpoint(folder_of(tmp_path) / "last.pt", CPU)["finished"]


@pytest.mark.parametrize("name", ["labels_sha256", "meta_sha256"])
def test_inference_against_other_labels_or_another_meta_vector_is_refused(
    name: str, shard_folder: Path, tmp_path: Path
) -> None:
    train.main(tiny(shard_folder, tmp_path / "runs", "--epochs", "1"))
    folder, other = folder_of(tmp_path / "runs"), "ab" * 32
    words = ["--runs", str(tmp_path / "runs"), "--shards", str(shard_folder), "--out", str(tmp_path)]
    settings, saved = (folder / "config.yaml").read_text(), load_checkpoint(folder / "last.pt", CPU)
    now = saved["facts"][name]
    (folder / "config.yaml").write_text(settings.replace(now, other))
    with pytest.raises(UserError, match=rf"was trained with {name}={other}, \S+ has {now}"):
        infer.main(words)
    (folder / "config.yaml").write_text(settings)
    saved["facts"][name] = other
    save_checkpoint(saved, folder / "last.pt")
    with pytest.raises(UserError, match=rf"was trained with {name}={other}, the config\.yaml beside it says {now}"):
        infer.main(words)


def test_a_member_of_other_settings_is_kept_and_resume_never_starts_from_scratch(
    shard_folder: Path, tmp_path: Path
) -> None:
    train.main(tiny(shard_folder, tmp_path, "--epochs", "1"))
    with pytest.raises(UserError, match=r"with target='melanoma', now it is 'diagnosis'.*--resume never"):
        train.main(tiny(shard_folder, tmp_path, "--epochs", "1", "--target", "diagnosis"))
    train.main(tiny(shard_folder, tmp_path, "--epochs", "1", "--target", "diagnosis", "--resume", "never"))
    assert load_checkpoint(folder_of(tmp_path) / "best.pt", CPU)["config"]["target"] == "diagnosis"


def test_sync_batchnorm_needs_gpus_and_keeps_the_activations_in_timms_norms(shard_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="sync_batchnorm=True needs GPUs"):
        train.main(tiny(shard_folder, tmp_path, "--sync-batchnorm"))
    config = TrainConfig(backbone="tiny", weights="none", shards=str(shard_folder), out=str(tmp_path), batch_size=16)
    with open_run(config, ALONE) as run:
        model = run.trainer.model
        image, meta = torch.randint(0, 256, (4, 64, 64, 3), dtype=torch.uint8), torch.randn(4, 11)
        before = model.eval()(image, meta)
        shutil.rmtree(tmp_path / "tiny", ignore_errors=True)
        model.share_batch_statistics()
        kinds = {type(module).__name__ for module in model.modules()}
        assert "SyncBatchNorm" in kinds
        assert not kinds & {"BatchNorm1d", "BatchNormAct2d"}
        torch.testing.assert_close(model.eval()(image, meta), before)
