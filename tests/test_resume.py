"""No run is lost: killed, stopped, restarted, resumed on another number of ranks."""

import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from commands import ROOT, all_lines, assert_same_run, epoch_lines, must_torchrun, step_lines, tiny, torchrun

import infer
import train
from configs.errors import UserError
from configs.schema import AugmentConfig
from engine.checkpoint import load_checkpoint, save_checkpoint
from engine.data import Data
from engine.interrupt import Stopped
from engine.run import Run
from engine.state import RunState
from loaders.batch import Batch
from loaders.order import Partition
from loaders.request import train_requests
from loaders.shards import ShardSet

# 6 steps per epoch; every step's loss is logged, last.pt is also saved within the epoch; with a moving average.
WORDS = ("--epochs", "3", "--fold", "2", "--log-every", "1", "--save-every", "2", "--optim.ema", "0.9")
ALL_FOLDS = ("--epochs", "2", "--fold", "none", "--log-every", "1", "--optim.ema", "0.9")


def started(words: list[str]) -> subprocess.Popen[str]:
    """train.py on one core, so that its sums always have the same order."""
    command = [sys.executable, "-u", "train.py", *words]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=_on_one_core_with_sigint,
    )


def _on_one_core_with_sigint() -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    # A shell that starts these tests in the background makes them, and so the command, ignore SIGINT.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def signalled_after(process: subprocess.Popen[str], folder: Path, lines: int, number: signal.Signals) -> str:
    """Send a signal once metrics.jsonl has grown by `lines` lines; returns the process's output."""
    before = len(all_lines(folder)) if folder.is_dir() else 0
    for _ in range(30_000):
        if (folder / "metrics.jsonl").is_file() and len((folder / "metrics.jsonl").read_text().splitlines()) >= (
            before + lines
        ):
            break
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    process.send_signal(number)
    return process.communicate(timeout=300)[0]


@pytest.fixture(scope="module")
def uninterrupted(shard_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("uninterrupted")
    process = started(tiny(shard_folder, out, *WORDS))
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return out / "tiny" / "fold2"


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.long)])
def test_a_run_killed_and_stopped_at_random_steps_ends_like_an_uninterrupted_one(
    seed: int, shard_folder: Path, tmp_path: Path, uninterrupted: Path
) -> None:
    rng = random.Random(seed)
    words, folder = tiny(shard_folder, tmp_path, *WORDS), tmp_path / "tiny" / "fold2"
    process = started(words)
    signalled_after(process, folder, rng.randrange(3, 9), signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    number = rng.choice([signal.SIGTERM, signal.SIGINT])
    process = started(words)
    output = signalled_after(process, folder, rng.randrange(1, 7), number)
    assert process.returncode == 0, output
    stopped = re.search(rf"stopped by {number.name} after step (\d+) of 6 in epoch (\d+): \S+ is saved", output)
    assert stopped, output
    saved = load_checkpoint(folder / "last.pt", torch.device("cpu"))
    assert (saved["step"], saved["epoch"] + 1) == tuple(int(word) for word in stopped.groups())
    process = started(words)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert f"continuing after step {stopped[1]} of epoch {stopped[2]}" in output
    assert_same_run(uninterrupted, folder)


@pytest.fixture(scope="module")
def undisturbed(shard_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without a held-out fold: two epochs of nine steps."""
    out = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("engine.distributed.usable_cores", lambda: 1)
        train.main(tiny(shard_folder, out, *ALL_FOLDS))
    return out / "tiny" / "foldnone"


@pytest.mark.parametrize(("epoch", "step"), [(0, 3), (1, 9)])
def test_a_stopped_run_without_a_held_out_fold_ends_like_an_undisturbed_one(
    epoch: int,
    step: int,
    shard_folder: Path,
    tmp_path: Path,
    undisturbed: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Stopped within an epoch, and after the last step of all."""
    original = Data.train_batches

    def signalled(data: Data, state: RunState) -> Iterator[Batch]:
        for batch in original(data, state):
            if (state.epoch, state.step + 1) == (epoch, step):
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    words = tiny(shard_folder, tmp_path, *ALL_FOLDS)
    monkeypatch.setattr("engine.distributed.usable_cores", lambda: 1)
    with monkeypatch.context() as patch:
        patch.setattr(Data, "train_batches", signalled)
        train.main(words)
    assert f"stopped by SIGTERM after step {step} of 9 in epoch {epoch + 1}" in capsys.readouterr().out
    train.main(words)
    assert f"continuing after step {step} of epoch {epoch + 1}" in capsys.readouterr().out
    assert_same_run(undisturbed, tmp_path / "tiny" / "foldnone")


@pytest.fixture(scope="module")
def unevaluated(shard_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped between its only epoch's last step and its evaluation."""
    out = tmp_path_factory.mktemp("unevaluated")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Data, "fold_batches", _stopped)
        train.main(tiny(shard_folder, out, "--batch-size", "12", "--epochs", "1", "--fold", "1"))
    saved = load_checkpoint(out / "tiny" / "fold1" / "last.pt", torch.device("cpu"))
    assert (saved["epoch"], saved["step"]) == (0, 8)
    return out


def _stopped(*_: object) -> None:
    raise Stopped


@pytest.mark.long
def test_one_two_and_three_ranks_evaluate_a_checkpoint_alike(
    unevaluated: Path, shard_folder: Path, tmp_path: Path
) -> None:
    """An odd number of held-out samples: each counts once, and the metrics agree."""
    found = {}
    for ranks in (1, 2, 3):
        out = tmp_path / str(ranks)
        shutil.copytree(unevaluated, out)
        words = tiny(shard_folder, out, "--batch-size", "12", "--epochs", "1", "--fold", "1")
        if ranks == 1:
            train.main(words)
        else:
            must_torchrun(ranks, "train.py", *words)
        folder = out / "tiny" / "fold1"
        oof = pd.read_parquet(folder / "oof.parquet")
        rows = pd.read_parquet(shard_folder / "samples.parquet")
        assert sorted(oof["key"]) == sorted(rows.loc[rows["fold"] == 1, "key"])
        assert len(oof) % 2 == 1
        found[ranks] = epoch_lines(folder)[0]
    for ranks in (2, 3):
        for name in ("auc", "auc_2019", "auc_2020", "loss", "sensitivity", "specificity", "train_loss"):
            assert found[ranks][name] == pytest.approx(found[1][name], abs=1e-6), name


@pytest.mark.long
@pytest.mark.parametrize("ranks", [2, 3])
def test_a_run_continues_on_other_ranks_with_the_same_batches(ranks: int, shard_folder: Path, tmp_path: Path) -> None:
    """Several ranks up to the fifth step, then one: the losses are those of one rank from start to end.

    Without batch statistics and dropout, which differ by rank.
    """
    words = ["--shards", str(shard_folder), "--backbone", "test_vit.r160_in1k", "--weights", "none", "--fold", "0"]
    words += ["--model.inputs", "image", "--model.head_drop", "0", "--batch-size", "16", "--epochs", "1"]
    words += ["--log-every", "1", "--optim.ema", "0.9"]
    train.main([*words, "--out", str(tmp_path / "one")])
    hook = tmp_path / "hook.py"
    hook.write_text(HOOK.format(root=str(ROOT), rank=1, step=5, act="os.kill(os.getpid(), signal.SIGTERM)"))
    output = must_torchrun(ranks, str(hook), *words, "--out", str(tmp_path / "mixed"))
    stopped = re.search(r"stopped by another rank's signal after step (\d) of 6", output)
    assert stopped, output
    assert int(stopped[1]) in (5, 6)  # the ranks agree to stop one step later
    folders = [tmp_path / name / "test_vit.r160_in1k" / "fold0" for name in ("one", "mixed")]
    assert len(step_lines(folders[1])) == int(stopped[1])
    train.main([*words, "--out", str(tmp_path / "mixed")])
    one, mixed = (step_lines(folder) for folder in folders)
    assert [line["step"] for line in mixed] == [line["step"] for line in one] == [1, 2, 3, 4, 5, 6]
    for left, right in zip(one, mixed, strict=True):
        assert right["loss"] == pytest.approx(left["loss"], abs=1e-4)
    last = [epoch_lines(folder)[0] for folder in folders]
    assert last[1]["train_loss"] == pytest.approx(last[0]["train_loss"], abs=1e-4)
    states = [load_checkpoint(folder / "last.pt", torch.device("cpu")) for folder in folders]
    for part in ("model", "average"):
        for name, value in states[0][part].items():
            torch.testing.assert_close(states[1][part][name], value, atol=2e-4, rtol=0.0, msg=name)


LOGGED = """
import json, os, signal, sys
from pathlib import Path
sys.path.insert(0, {root!r})
import train
from configs.cli import run_command
from engine.step import Step

original = Step.__call__

def call(step, batch):
    cursor = [batch.epoch, batch.step]
    with Path(__file__).with_suffix(f".{{step.rank}}").open("a") as file:
        file.write(json.dumps([cursor, step.rank, batch.index[batch.valid].tolist()]) + chr(10))
    if cursor == {stop} and step.rank == int(os.environ.get("WORLD_SIZE", "1")) - 1:
        os.kill(os.getpid(), signal.SIGTERM)
    return original(step, batch)

Step.__call__ = call
run_command(train.main)
"""


@pytest.mark.long
@pytest.mark.parametrize(("stops", "epochs"), [(1, 1), (20, 20)])
def test_a_run_stopped_at_random_steps_goes_on_with_the_same_batches_on_other_numbers_of_ranks(
    stops: int, epochs: int, shard_folder: Path, tmp_path: Path
) -> None:
    """Batches of 16 on 3 and 2 ranks, or on 1 to 4 at random: which samples count in each, in order."""
    with closing(ShardSet(shard_folder)) as shards:
        rows = shards.train_rows(0)
    whole = Partition(samples=len(rows), batch_size=16)
    requests = train_requests(rows, whole, AugmentConfig(), seed=0, size=64, epochs=range(epochs))
    expected = [[[one.epoch, one.step], one.index[one.valid].tolist()] for one in requests]
    rng = random.Random(0)
    # The ranks agree to stop one step later.
    cursors = [divmod(place, whole.steps) for place in sorted(rng.sample(range(0, len(expected) - 2, 2), stops))]
    worlds = [3, 2] if stops == 1 else [rng.randint(1, 4) for _ in range(stops + 1)]
    hook = tmp_path / "hook.py"
    words = tiny(shard_folder, tmp_path / "runs", "--epochs", str(epochs), "--fold", "0", "--patience", "0")
    for stop, world in zip([*map(list, cursors), None], worlds, strict=True):
        hook.write_text(LOGGED.format(root=str(ROOT), stop=stop))
        output = must_torchrun(world, str(hook), *words)
        assert ("run the same command again" in output) == (stop is not None), output
    lines = [json.loads(line) for log in tmp_path.glob("hook.[0-9]") for line in log.read_text().splitlines()]
    found: dict[tuple[int, ...], list[int]] = {}
    for cursor, _, index in sorted(lines):
        found.setdefault(tuple(cursor), []).extend(index)
    assert [[list(cursor), index] for cursor, index in found.items()] == expected
    assert len({(tuple(cursor), rank) for cursor, rank, _ in lines}) == len(lines)  # each step once on each rank


HOOK = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {root!r})
import infer
import train
from configs.cli import run_command
from configs.errors import UserError
from engine.step import Step

marker = Path(__file__).with_suffix(".done")
original = Step.__call__

def call(step, batch):
    if step.rank == {rank} and batch.epoch == 0 and batch.step + 1 == {step} and not marker.exists():
        marker.touch()
        {act}
    return original(step, batch)

Step.__call__ = call
run_command(train.main)
"""


@pytest.mark.long
def test_a_killed_rank_ends_the_job_and_its_restart_continues(shard_folder: Path, tmp_path: Path) -> None:
    hook = tmp_path / "hook.py"
    hook.write_text(HOOK.format(root=str(ROOT), rank=1, step=6, act="os.kill(os.getpid(), signal.SIGKILL)"))
    words = tiny(shard_folder, tmp_path, "--epochs", "1", "--save-every", "2", "--log-every", "1")
    done = torchrun(2, str(hook), *words, restarts=1)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "continuing after step 4 of epoch 1" in done.stdout
    assert [line["step"] for line in step_lines(tmp_path / "tiny" / "fold0")] == [1, 2, 3, 4, 5, 6]
    assert len(epoch_lines(tmp_path / "tiny" / "fold0")) == 1


@pytest.mark.long
def test_the_error_of_one_rank_ends_all_of_them(shard_folder: Path, tmp_path: Path) -> None:
    hook = tmp_path / "hook.py"
    hook.write_text(HOOK.format(root=str(ROOT), rank=1, step=3, act="raise UserError('this rank fails')"))
    done = torchrun(2, str(hook), *tiny(shard_folder, tmp_path, "--epochs", "50"))
    assert done.returncode == 1
    assert done.stderr.count("error: this rank fails") == 1
    assert done.stderr.count("Traceback (most recent") == 1  # torchrun's own


def test_inference_with_a_member_in_training_says_so(
    unevaluated: Path, shard_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(unevaluated, tmp_path / "runs")
    train.main(tiny(shard_folder, tmp_path / "runs", "--batch-size", "12", "--epochs", "1", "--fold", "1"))
    words = ["--runs", str(tmp_path / "runs"), "--shards", str(shard_folder), "--out", str(tmp_path / "out")]
    infer.main(words)
    assert "is not finished" not in capsys.readouterr().out
    last = tmp_path / "runs" / "tiny" / "fold1" / "last.pt"
    save_checkpoint({**load_checkpoint(last, torch.device("cpu")), "finished": False}, last)
    infer.main(words)
    assert (
        "fold1/best.pt is the best epoch so far of a member whose training is not finished" in capsys.readouterr().out
    )


@pytest.mark.parametrize("epochs", ["1", "2"])
def test_best_is_rebuilt_from_last_if_the_run_ended_between_the_two(
    epochs: str, shard_folder: Path, tmp_path: Path
) -> None:
    """In the first epoch of two, and in the only one, after which the member counts as finished."""
    words, folder = tiny(shard_folder, tmp_path, "--epochs", epochs), tmp_path / "tiny" / "fold0"

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("engine.run.save_best", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train.main(words)
    assert not (folder / "best.pt").exists()
    last = load_checkpoint(folder / "last.pt", torch.device("cpu"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Data, "train_batches", _stopped)
        train.main(words)
    best = load_checkpoint(folder / "best.pt", torch.device("cpu"))
    assert best["best"] == last["best"]
    assert all(torch.equal(best["model"][name], value) for name, value in last["model"].items())
    assert (folder / "oof.parquet").is_file() == (epochs == "1")


def test_a_signal_after_the_last_batch_ends_a_grid(
    shard_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = Run.write_results

    def signalled(run: Run) -> None:
        original(run)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Run, "write_results", signalled)
    train.main(tiny(shard_folder, tmp_path, "--epochs", "1", "--fold", "0", "1"))
    assert [path.name for path in (tmp_path / "tiny").iterdir()] == ["fold0"]
    assert "stopped by SIGTERM: " in capsys.readouterr().out
    saved = load_checkpoint(tmp_path / "tiny" / "fold0" / "last.pt", torch.device("cpu"))
    assert saved["finished"]
    assert "validation" in saved


def test_starting_from_scratch_leaves_nothing_of_the_old_run(shard_folder: Path, tmp_path: Path) -> None:
    words, folder = tiny(shard_folder, tmp_path, "--epochs", "1"), tmp_path / "tiny" / "fold0"
    train.main(words)
    old = pd.read_parquet(folder / "oof.parquet")
    train.main([*words, "--seed", "5", "--resume", "never"])
    new = pd.read_parquet(folder / "oof.parquet")
    assert not np.allclose(new["pred_last"], old["pred_last"])
    last = load_checkpoint(folder / "last.pt", torch.device("cpu"))
    np.testing.assert_array_equal(new["pred_last"], last["validation"].numpy())


def test_the_metrics_survive_a_full_disk_at_the_restart(
    shard_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words, folder = tiny(shard_folder, tmp_path, "--epochs", "1", "--log-every", "1"), tmp_path / "tiny" / "fold0"
    monkeypatch.setattr(Data, "fold_batches", _stopped)
    train.main(words)
    # Longer than all that is written before it.
    long = json.dumps({"epoch": 0, "step": 1, **{f"figure{number}": 1.0 for number in range(10_000)}}) + "\n"
    before = long + (folder / "metrics.jsonl").read_text()
    # The last line is of a step after the last checkpoint: the restart drops it.
    (folder / "metrics.jsonl").write_text(before + '{"epoch": 0, "step": 99}\n')
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(long), limit[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            train.main(words)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert (folder / "metrics.jsonl").read_text().startswith(before)


def test_a_run_that_ended_before_its_results_were_written_writes_them(
    shard_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words, folder = tiny(shard_folder, tmp_path, "--epochs", "1"), tmp_path / "tiny" / "fold0"
    train.main(words)
    before = pd.read_parquet(folder / "oof.parquet")
    (folder / "oof.parquet").unlink()
    (folder / "training_curves.png").unlink()
    train.main(words)
    assert "nothing to do" in capsys.readouterr().out
    pd.testing.assert_frame_equal(pd.read_parquet(folder / "oof.parquet"), before)
    assert (folder / "training_curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["labels_sha256", "meta_sha256"])
def test_other_labels_or_another_meta_vector_are_refused_with_both_hashes(
    name: str, unevaluated: Path, shard_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(unevaluated, tmp_path / "runs")
    path = tmp_path / "runs" / "tiny" / "fold1" / "last.pt"
    saved = load_checkpoint(path, torch.device("cpu"))
    now = saved["facts"][name]
    saved["facts"][name] = "0" * 64
    save_checkpoint(saved, path)
    words = tiny(shard_folder, tmp_path / "runs", "--batch-size", "12", "--epochs", "1", "--fold", "1")
    with pytest.raises(UserError, match=rf"was made with {name}='0000\S+', now it is '{now}'"):
        train.main(words)
