"""What the tests of whole runs share: the commands, and how to read what they write."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from engine.checkpoint import load_checkpoint

ROOT = Path(__file__).resolve().parents[1]
# Values in metrics.jsonl about how fast a run was, not what it learnt.
TIMES = {"images_per_s", "waiting", "batches_ready"}


def tiny(shards: Path, out: Path, *more: str) -> list[str]:
    return ["--shards", str(shards), "--backbone", "tiny", "--out", str(out), "--batch-size", "16", *more]


def torchrun(ranks: int, *words: str, restarts: int = 0) -> subprocess.CompletedProcess[str]:
    """The literal command, with this interpreter's torchrun and a free port."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, f"--max-restarts={restarts}", *words],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def must_torchrun(ranks: int, *words: str) -> str:
    """`torchrun`, which must succeed; returns its output."""
    done = torchrun(ranks, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def epoch_lines(folder: Path) -> list[dict[str, Any]]:
    return [line for line in all_lines(folder) if "step" not in line]


def step_lines(folder: Path) -> list[dict[str, Any]]:
    return [line for line in all_lines(folder) if "step" in line]


def all_lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_same_run(one: Path, two: Path) -> None:
    """Two members are identical bit for bit: weights, optimiser, records, predictions."""
    first, second = (load_checkpoint(folder / "last.pt", torch.device("cpu")) for folder in (one, two))
    for name in ("epoch", "step", "finished", "best", "loss_sum"):
        assert repr(first[name]) == repr(second[name]), name  # the best score is NaN without a held-out fold
    for part in ("model", "average"):
        for name, value in (first[part] or {}).items():
            assert torch.equal(second[part][name], value), name
    for number, state in first["optimizer"]["state"].items():
        assert all(torch.equal(second["optimizer"]["state"][number][name], value) for name, value in state.items())
    for left, right in zip(all_lines(one), all_lines(two), strict=True):
        same = {name for name in left if name not in TIMES and not name.startswith("wait_") and name[-3:] != "_us"}
        assert {name: left[name] for name in same} == {name: right[name] for name in same}
    if first["config"]["fold"] is not None:
        pd.testing.assert_frame_equal(*(pd.read_parquet(folder / "oof.parquet") for folder in (one, two)))
