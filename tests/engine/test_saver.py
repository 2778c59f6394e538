"""Checkpoints are written while training goes on, hold the step that they are of, and end the run if they fail."""

import copy
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import ROOT, must_torchrun, step_lines, tiny

import train
from configs.errors import UserError
from configs.files import only_writer
from engine.checkpoint import load_checkpoint, read_checkpoint, save_checkpoint
from engine.progress import EpochProgress
from engine.run import Run
from engine.saver import Saver

CPU = torch.device("cpu")
DEADLINE = 300.0  # seconds that a test waits for another thread or process before it fails


def at_each_step(patch: pytest.MonkeyPatch, act: Callable[[Run], None]) -> None:
    """Call `act` after each training step, before the run looks whether a save is due."""
    original = Run.save_if_due

    def call(run: Run, progress: EpochProgress) -> None:
        act(run)
        original(run, progress)

    patch.setattr(Run, "save_if_due", call)


def assert_same(one: Any, two: Any) -> None:
    """Nested dicts and lists of tensors and numbers are equal bit for bit."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, two)
    elif isinstance(one, dict):
        assert list(one) == list(two)
        for name, value in one.items():
            assert_same(value, two[name])
    elif isinstance(one, list | tuple):
        for left, right in zip(one, two, strict=True):
            assert_same(left, right)
    else:
        assert one == two


def test_steps_go_on_while_the_state_of_an_earlier_one_is_written(
    shard_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer that waits for a later step: the run would hang if the step waited for the writer."""
    gone_on, waits, state = threading.Event(), [], {}

    def act(run: Run) -> None:
        if run.state.step == 3:
            state.update(copy.deepcopy(run.trainer.tensors()))
        if run.state.step == 5:
            gone_on.set()

    def slow(content: dict[str, Any], path: Path, *check: Any) -> None:
        if content.get("step") == 3:
            waits.append(gone_on.wait(DEADLINE))
            save_checkpoint(content, tmp_path / "step3.pt")
        save_checkpoint(content, path, *check)

    at_each_step(monkeypatch, act)
    monkeypatch.setattr("engine.run.save_checkpoint", slow)
    train.main(tiny(shard_folder, tmp_path, "--epochs", "1", "--save-every", "3", "--optim.ema", "0.9"))
    assert waits == [True]
    saved = load_checkpoint(tmp_path / "step3.pt", CPU)
    assert_same({name: saved[name] for name in state}, state)
    assert load_checkpoint(tmp_path / "tiny" / "fold0" / "last.pt", CPU)["finished"]


def test_the_lines_of_the_steps_before_are_written_before_the_checkpoint(
    shard_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a device so late that the training thread never finds a loss: only the thread that writes waits for it."""
    found = []

    def counted(content: dict[str, Any], path: Path, *check: Any) -> None:
        found.append((content["step"], len(step_lines(path.parent))))
        save_checkpoint(content, path, *check)

    late = property(lambda _: threading.current_thread() is not threading.main_thread())
    monkeypatch.setattr("engine.progress.Reading.here", late)
    monkeypatch.setattr("engine.run.save_checkpoint", counted)
    train.main(tiny(shard_folder, tmp_path, "--epochs", "1", "--save-every", "2", "--log-every", "1"))
    assert [step for step, _ in found] == [2, 4, 0]
    assert [lines >= step for step, lines in found] == [True] * 3
    assert [line["step"] for line in step_lines(tmp_path / "tiny" / "fold0")] == [1, 2, 3, 4, 5, 6]


def test_a_full_disk_ends_the_run_with_the_checkpoint_before_it(
    shard_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread fails at step 4; the run ends with its message, and has released the folder."""
    folder, limit = tmp_path / "tiny" / "fold0", resource.getrlimit(resource.RLIMIT_FSIZE)

    def limited(content: dict[str, Any], path: Path, *check: Any) -> None:
        if content["step"] == 4:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limit[1]))
        try:
            save_checkpoint(content, path, *check)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)

    words = tiny(shard_folder, tmp_path, "--epochs", "1", "--save-every", "2")
    with monkeypatch.context() as patch:
        patch.setattr("engine.run.save_checkpoint", limited)
        with pytest.raises(UserError, match=r"last\.pt could not be written: .*; the previous one is kept"):
            train.main(words)
    assert read_checkpoint(folder / "last.pt")["step"] == 2
    assert not list(folder.glob("*.tmp"))
    with only_writer(folder / "train.lock"):
        pass
    train.main([*words, "--save-minutes", "3", "--timeout", "5"])  # settings that may change
    assert read_checkpoint(folder / "last.pt")["finished"]


@pytest.mark.parametrize(("step", "words"), [(4, "after step 4 of epoch 1"), (9, "after step 0 of epoch 2")])
def test_weights_that_are_not_finite_do_not_replace_a_checkpoint(
    step: int, words: str, shard_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A running statistic, which no loss in training shows: within an epoch, and at the end of the last one."""

    def poison(run: Run) -> None:
        if run.state.step == step:
            next(value for name, value in run.trainer.model.named_buffers() if "running_var" in name)[0] = torch.nan

    at_each_step(monkeypatch, poison)
    message = rf"the weights are NaN or infinite {words}; earlier checkpoints in \S+ are kept: start from scratch"
    with pytest.raises(UserError, match=message):
        train.main(tiny(shard_folder, tmp_path, "--epochs", "1", "--fold", "none", "--save-every", "2"))
    saved = read_checkpoint(tmp_path / "tiny" / "foldnone" / "last.pt")
    assert saved["step"] == (2 if step == 4 else 8)


def test_an_error_in_training_waits_for_the_file_under_way(
    shard_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder stays locked until it is written."""
    folder, failing, locked = tmp_path / "tiny" / "fold0", threading.Event(), []

    def fail(run: Run) -> None:
        if run.state.step == 4:
            failing.set()
            raise RuntimeError("an error in step 4")

    def slow(content: dict[str, Any], path: Path, *check: Any) -> None:
        assert failing.wait(DEADLINE)
        time.sleep(0.2)
        with pytest.raises(UserError, match="another process"), only_writer(folder / "train.lock"):
            pass
        locked.append(content["step"])
        save_checkpoint(content, path, *check)

    at_each_step(monkeypatch, fail)
    monkeypatch.setattr("engine.run.save_checkpoint", slow)
    with pytest.raises(RuntimeError, match="an error in step 4"):
        train.main(tiny(shard_folder, tmp_path, "--epochs", "1", "--save-every", "3"))
    assert locked == [3]
    assert read_checkpoint(folder / "last.pt")["step"] == 3


def test_copies_are_whole_and_in_the_same_memory_at_every_save() -> None:
    """Values, strides and a state dict's versions; what the caller changes afterwards does not reach the thread."""
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    module[0].to(memory_format=torch.channels_last)
    found, places = [], []

    def write(content: dict[str, Any]) -> None:
        assert changed.wait(DEADLINE)
        found.append(copy.deepcopy(content))
        places.append([value.data_ptr() for value in content["model"].values()])

    with Saver(CPU) as saver:
        for number in range(3):
            changed, before = threading.Event(), copy.deepcopy(module.state_dict())
            saver.save({"number": number, "model": module.state_dict(), "list": [torch.ones(2), "word"]}, write)
            with torch.no_grad():
                for value in module.state_dict().values():
                    value.add_(1)
            changed.set()
            saver.wait()
            assert_same(found[number], {"number": number, "model": before, "list": [torch.ones(2), "word"]})
            assert found[number]["model"]["0.weight"].stride() == module[0].weight.stride()
            assert found[number]["model"]._metadata == before._metadata
    assert places[0] == places[1] == places[2]
    assert not set(places[0]) & {value.data_ptr() for value in module.state_dict().values()}


@pytest.mark.gpu
def test_what_a_gpu_does_later_does_not_reach_the_copies() -> None:
    """A hundred additions are enqueued long before the copy in front of them is done."""
    found, value = [], torch.zeros(50_000_000, device="cuda")
    with Saver(value.device) as saver:
        for number in range(2):
            saver.save({"value": value}, lambda content: found.append(content["value"].unique().tolist()))
            for _ in range(100):
                value.add_(1)
            saver.wait()
            assert found[number] == [100.0 * number]


WRITING = """
import sys, torch
sys.path.insert(0, {root!r})
from pathlib import Path
from engine.checkpoint import save_checkpoint
from engine.saver import Saver

path, weight = Path(sys.argv[1]), torch.zeros(1_000_000)
with Saver(torch.device("cpu")) as saver:
    for number in range(1_000_000):
        saver.save({{"number": number, "weight": weight}}, lambda content: save_checkpoint(content, path))
        weight += 1  # meanwhile
        if number == 2:
            print("begun", flush=True)
"""


def test_a_process_that_is_killed_while_it_writes_leaves_a_whole_file(tmp_path: Path) -> None:
    """Nothing but writing: every moment is one within a save."""
    path = tmp_path / "last.pt"
    for moment in (0.0, 0.021, 0.083):
        command = [sys.executable, "-c", WRITING.format(root=str(ROOT)), str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"}) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"begun\n"
            time.sleep(moment)
            process.kill()
        saved = load_checkpoint(path, CPU)
        assert saved["number"] >= 1
        assert saved["weight"].eq(saved["number"]).all()


SAVING = """
import sys
sys.path.insert(0, {root!r})
from itertools import count
from pathlib import Path
import train
from configs.cli import run_command
from engine.interrupt import StopRequest
from engine.run import Run

original, asked = Run.save, count(1)

def save(run, *words, **more):
    with Path(__file__).with_suffix(f".{{run.ranks.rank}}").open("a") as file:
        file.write(f"{{run.state.step}} ")
    original(run, *words, **more)

Run.save = save
StopRequest._is_time = lambda stop: not stop._ranks.first or next(asked) >= 3
run_command(train.main)
"""


def test_ranks_save_by_the_first_ones_clock_at_the_same_step(shard_folder: Path, tmp_path: Path) -> None:
    """The first finds it time after step 3, the other one always; both hear of it after step 4."""
    script = tmp_path / "saving.py"
    script.write_text(SAVING.format(root=str(ROOT)))
    words = tiny(shard_folder, tmp_path, "--epochs", "1", "--save-every", "1000")
    must_torchrun(2, str(script), *words)
    assert [script.with_suffix(f".{rank}").read_text() for rank in range(2)] == ["5 0 "] * 2


@pytest.mark.parametrize(("minutes", "steps"), [("1e-9", [2, 3, 4, 5, 0]), ("0", [0]), ("1", [0])])
def test_one_rank_saves_in_the_step_after_the_time_is_over(
    minutes: str, steps: list[int], shard_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = []

    def noted(content: dict[str, Any], *_: Any) -> None:
        saved.append(content["step"])

    monkeypatch.setattr("engine.run.save_checkpoint", noted)
    words = tiny(shard_folder, tmp_path, "--epochs", "1", "--fold", "none", "--batch-size", "24")
    train.main([*words, "--save-every", "1000", "--save-minutes", minutes])
    assert saved == steps
