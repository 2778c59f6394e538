"""Members as processes of a launcher, without Ray and SLURM, which tests/cluster starts."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest
from commands import ROOT, epoch_lines, tiny
from sklearn.metrics import roc_auc_score

import train
from configs.errors import UserError
from configs.grid import member_words, parse_grid
from configs.launcher import LAUNCHED, STOPPED
from engine.launch import Member, last_line, launch_grid
from report.table import print_table


def configs_of(*words: str) -> list[str]:
    """What trains each member of a grid alone, checked to have the grid's own settings for it."""
    grid = parse_grid(words, prog="train.py", description="")
    lines = []
    for config in grid:
        alone = member_words(words, config)
        (same,) = parse_grid(alone, prog="train.py", description="")
        assert (same.backbone, same.fold, same.optim, same.epochs) == (
            config.backbone,
            config.fold,
            config.optim,
            config.epochs,
        )
        assert same.launch.by == "none"
        lines.append(" ".join(alone))
    return lines


def test_a_member_alone_has_the_settings_that_it_has_in_the_grid(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("backbone: tiny\nfold: 2\nlaunch: {by: slurm}\noptim: {lr: 0.5}\n")
    config = ("--config", str(tmp_path / "mine.yaml"))
    assert configs_of(*config) == [f"--config {tmp_path}/mine.yaml --fold=2 --launch.by=none"]
    found = configs_of("--backbone", "tiny", "resnest50", "--launch", "ray", "--fold", "none", "1", "--epochs", "3")
    assert found == [
        f"--epochs 3 --backbone={backbone} --fold={fold} --launch.by=none"
        for backbone in ("tiny", "resnest50")
        for fold in ("none", "1")
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--launch", "ray", "slurm"), "give one of none, ray and slurm"),
        (("--launch", "rai"), "launch.by"),
        (("--launch", "ray", "--resume", "never"), "--resume never would start a member again whenever ray does"),
        (("--launch.gpus", "2"), "launch.gpus=2 is out of range"),
    ],
)
def test_what_cannot_be_launched_is_refused(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_grid(words, prog="train.py", description="")


@pytest.mark.parametrize(("by", "package"), [("ray", "ray"), ("slurm", "submitit")])
def test_a_package_that_is_missing_is_named_with_the_command_that_brings_it(
    by: str, package: str, shard_folder: Path, tmp_path: Path
) -> None:
    if find_spec(package):
        pytest.skip(f"{package} is installed")
    words = tiny(shard_folder, tmp_path, "--launch", by)
    with pytest.raises(UserError, match=rf"needs the package {package}: pip install '\.\[{by}\]'"):
        train.main(words)
    assert not list(tmp_path.iterdir())


def test_ranks_launch_nothing(shard_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    words = tiny(shard_folder, tmp_path, "--launch", "ray")
    with pytest.raises(UserError, match="start --launch with python"):
        launch_grid(words, parse_grid(words, prog="train.py", description=""))


def started(shards: Path, folder: Path, when: Callable[[], object]) -> int:
    """The exit code of a member that is told to stop as SLURM tells it, `when` it is time."""
    words = tiny(shards, folder.parents[1], "--fold=0", "--epochs=500", "--patience=0")
    member = Member(name="tiny/fold0", log=folder / "train.log", words=words, cwd=str(ROOT), gpus=0, cpus=1)

    ended = threading.Event()

    def stop() -> None:
        while not when():
            if ended.wait(0.05):
                return
        os.kill(os.getpid(), signal.SIGUSR2)

    thread = threading.Thread(target=stop)
    thread.start()
    code = member.run()
    ended.set()
    thread.join()
    return code


def test_a_launched_member_that_is_stopped_with_work_left_asks_to_be_queued_again(
    shard_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "tiny" / "fold0"
    log = folder / "train.log"
    assert started(shard_folder, folder, log.is_file) == STOPPED, "while it still imports"
    assert not (folder / "last.pt").exists()
    lines = folder / "metrics.jsonl"
    assert started(shard_folder, folder, lambda: lines.is_file() and epoch_lines(folder)) == STOPPED
    assert "stopped by SIGTERM" in log.read_text()
    assert (folder / "last.pt").is_file()
    process = subprocess.run(
        [sys.executable, "train.py", *tiny(shard_folder, tmp_path, "--fold=0", "--epochs=501", "--patience=0")],
        cwd=ROOT,
        env={**os.environ, LAUNCHED: str(os.getpid())},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 2, "an error is none"
    assert "was made with epochs=500" in process.stderr


def test_the_last_line_of_a_log_is_the_last_that_says_something(tmp_path: Path) -> None:
    log = tmp_path / "train.log"
    log.write_bytes(b"first\n" * 9000 + b"error: the \xff last\r\n  \n\n")
    assert last_line(log) == "error: the \ufffd last"
    log.write_bytes(b"")
    assert last_line(log) == ""


def test_the_table_shows_what_became_of_each_member(
    trained: Path, synthetic_shards: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "150")
    words = tiny(synthetic_shards, trained, "--fold", "0", "1", "2", "none")
    states = {"tiny/fold0": "finished", "tiny/fold1": "finished", "tiny/fold2": "failed: error: [full]"}
    print_table(parse_grid(words, prog="train.py", description=""), {**states, "tiny/foldnone": "missing"})
    rows = [[cell.strip() for cell in line.strip("│ ").split("│")] for line in capsys.readouterr().out.splitlines()]
    found = {row[1]: row for row in rows if row[0] == "tiny"}
    assert found["0"][-1] == "finished"
    assert found["2"][2:] == ["2", "-", "-", "-", "failed: error: [full]"]
    assert found["none"][2:] == ["-", "-", "-", "-", "missing"]
    finished = pd.concat(pd.read_parquet(trained / "tiny" / fold / "oof.parquet") for fold in ("fold0", "fold1"))
    assert found["pooled"][3] == f"{roc_auc_score(finished['target'], finished['pred_last']):.4f}"
