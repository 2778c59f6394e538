"""The one command for a CUDA machine: its schedule with a fake clock, and every step of it at toy size."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu_qualify
from benchmarks.gpu_qualify import Schedule, Step, Verdict, making_shards, measuring
from benchmarks.record import read

ROOT = Path(__file__).resolve().parents[2]
STEPS = [Step(name, [], expected) for name, expected in (("a", 60), ("b", 60), ("c", 240))]


def call(work: Path, budget: float, seconds: float = 10, **verdicts: Verdict) -> Schedule:
    """A call in which every step takes `seconds` and passes, unless `verdicts` says otherwise."""
    now, limits = [0.0], []

    def run(step: Step, limit: float) -> Verdict:
        limits.append(limit)
        now[0] += seconds
        return verdicts.get(step.name, "passed")

    schedule = Schedule(work=work, budget=budget, clock=lambda: now[0], run=run)
    assert list(schedule.take(STEPS)) == [name for name, _, _ in schedule.done]
    assert limits == [budget - number * seconds for number in range(len(limits))]
    return schedule


def test_what_does_not_fit_into_the_budget_is_left_for_the_next_call(tmp_path: Path) -> None:
    first = call(tmp_path, budget=75)
    assert (first.done, first.left) == ([("a", "passed", 10), ("b", "passed", 10)], ["c"])
    second = call(tmp_path, budget=300)
    assert (second.done, second.left) == ([("c", "passed", 10)], [])
    assert call(tmp_path, budget=300).done == [], "all have passed"


def test_no_step_begins_that_is_not_expected_to_end_in_time(tmp_path: Path) -> None:
    assert call(tmp_path, budget=59).left == ["a", "b", "c"]


@pytest.mark.parametrize("verdict", ["FAILED", "cut off"])
def test_what_an_earlier_call_tried_in_vain_comes_last(tmp_path: Path, verdict: Verdict) -> None:
    first = call(tmp_path, budget=300, a=verdict)
    assert [name for name, _, _ in first.done] == ["a", "b", "c"]
    assert first.left == (["a"] if verdict == "cut off" else [])
    verdicts = json.loads((tmp_path / "verdicts.json").read_text())
    assert verdicts == {"a": verdict, "b": "passed", "c": "passed"}
    (tmp_path / "verdicts.json").write_text(json.dumps({"a": verdict, "c": "passed"}))
    assert call(tmp_path, budget=300, a="FAILED").done == [("b", "passed", 10), ("a", "FAILED", 10)]
    assert call(tmp_path, budget=300).done == [("a", "passed", 10)]


def test_the_steps_are_those_of_all_backbones_and_loaders(tmp_path: Path) -> None:
    steps = measuring(tmp_path, tmp_path, dry=False)
    names = ["step_efficientnet_b1", "step_resnest50", "step_efficientnet_b3", "step_efficientnet_b4"]
    then = ["host", "epoch", "fold", "inference", "loaders", "loaders_flips", "autotuned"]
    assert [step.name for step in steps] == ["tests", *names, *then]
    assert all(0 < step.expected < 540 for step in [*steps, *making_shards(tmp_path, tmp_path, dry=False)])
    assert sum(word.startswith("--trace=") for step in steps for word in step.words) == 1


def qualify(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "benchmarks/gpu_qualify.sh", *words], cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHON": sys.executable, **environment},
    )  # fmt: skip


@pytest.mark.long
def test_every_step_runs_at_toy_size_and_only_once(tmp_path: Path) -> None:
    words, work = (str(tmp_path / "out"), "--dry"), str(tmp_path / "work")
    first = qualify(*words, WORK=work, OMP_NUM_THREADS="1")
    assert first.returncode == 0, first.stdout + first.stderr
    steps = [line.split("\t") for line in (tmp_path / "out" / "steps.tsv").read_text().splitlines()]
    names = ["synthetic", "shard", "tests", "step_tiny", "host", "epoch", "fold", "inference"]
    names += ["loaders", "loaders_flips", "autotuned"]
    assert [(name, verdict) for name, verdict, _ in steps] == [(name, "passed") for name in names]
    found = {
        name: read(tmp_path / "out" / f"throughput_{name}.json") for name in ("tiny", "loaders_flips", "autotuned")
    }
    assert found["autotuned"]["training"]["plain_images_per_s"]
    assert {loader["workload"] for loader in found["loaders_flips"]["loaders"]} == {"flips"}
    assert not [loader["failed"] for loader in found["loaders_flips"]["loaders"] if loader["failed"]]
    assert (tmp_path / "out" / "trace.json.gz").stat().st_size < 16 * 2**20
    again = qualify(*words, WORK=work)
    assert (again.returncode, again.stdout) == (0, "")


def test_a_command_that_outlasts_the_budget_is_killed_and_its_step_left(tmp_path: Path) -> None:
    done = qualify(str(tmp_path / "out"), str(tmp_path / "no shards"), "--dry", WORK=str(tmp_path), BUDGET="0.5")
    assert done.returncode == 3, done.stderr
    first, last = done.stdout.splitlines()
    assert first.startswith("tests\tcut off\t")
    assert last == "left for another call: tests step_tiny host epoch fold inference loaders loaders_flips autotuned"


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_it_needs_a_gpu_or_dry(tmp_path: Path) -> None:
    done = qualify(str(tmp_path))
    assert done.returncode == 2
    assert "torch sees no GPU here" in done.stderr


def test_a_missing_folder_or_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gpu_qualify.main(["--dry"]) == 2
    assert "usage: gpu_qualify.sh OUT" in capsys.readouterr().err
    monkeypatch.setattr(gpu_qualify, "_PACKAGES", "pytest no_such_package nvidia")
    assert gpu_qualify.main([str(tmp_path), "--dry"]) == 2
    assert "has no no_such_package: install it, or name another interpreter" in capsys.readouterr().err
