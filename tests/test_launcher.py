"""The environment of a rank, and a command's last words: one line whatever happens."""

import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from commands import ROOT, tiny

import train
from configs.cli import run_command
from configs.errors import UserError
from configs.files import only_writer
from configs.launcher import Launch, read_launch

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
WHOLE = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "host", "MASTER_PORT": "29500"}


@pytest.fixture(autouse=True)
def _without_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("given", "rank", "world_size"),
    [
        ({}, 0, 1),
        (dict.fromkeys(VARIABLES, ""), 0, 1),
        ({"WORLD_SIZE": "1"}, 0, 1),
        ({"MASTER_ADDR": "host", "LOCAL_WORLD_SIZE": "8"}, 0, 1),
        (WHOLE, 3, 8),
    ],
)
def test_the_environment_says_which_rank_this_is(
    given: dict[str, str], rank: int, world_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    launch = read_launch()
    assert (launch.rank, launch.world_size) == (rank, world_size)
    if not given:
        assert launch == Launch(rank=0, world_size=1, local_rank=0, local_world_size=1)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"WORLD_SIZE": "4"}, "has WORLD_SIZE=4, but not RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT: start"),
        ({"RANK": "2"}, "has RANK=2, but not WORLD_SIZE"),
        ({**WHOLE, "MASTER_PORT": ""}, "but not MASTER_PORT: start several ranks with torchrun"),
        ({**WHOLE, "RANK": "-1"}, "RANK='-1', which is no number"),
        ({**WHOLE, "RANK": "8"}, "RANK=8 is out of range, WORLD_SIZE is 8"),
        ({"WORLD_SIZE": "${N}"}, "WORLD_SIZE='\\$\\{N\\}', which is no number"),
    ],
)
def test_half_an_environment_is_refused_with_the_remedy(
    given: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message):
        read_launch()


def ended(main: object, *words: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["train.py", *words])
    with pytest.raises(SystemExit) as caught:
        run_command(main)  # type: ignore[arg-type]
    assert isinstance(caught.value.code, int)
    return caught.value.code


@pytest.mark.parametrize("option", ["--local-rank=0", "--local_rank=0", "--local_rank"])
def test_the_launch_module_is_answered_with_torchrun(
    option: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(train.main, option, monkeypatch=monkeypatch) == 2
    assert re.fullmatch(r"error: .*start with torchrun.*\n", capsys.readouterr().err)


@pytest.mark.parametrize(
    "error", [TypeError("one\ntwo \x1b[31m"), RecursionError(), FileNotFoundError(2, "No such file", "x")]
)
def test_anything_unexpected_ends_in_one_line_and_a_file_with_the_traceback(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def fails(_: object) -> None:
        raise error

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert ended(fails, "--some", "option", monkeypatch=monkeypatch) == 1
    said = capsys.readouterr().err
    found = re.fullmatch(rf"unexpected error: {type(error).__name__}\b.*; the traceback is in (\S+); .*kept.*\n", said)
    assert found
    assert said[:-1].isprintable()
    text = Path(found[1]).read_text()
    assert "in fails\n    raise error" in text
    assert "'--some', 'option'" in text


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(24, "Too many open files", "a.tar"), r"a\.tar: Too many open files: .*ulimit -n"),
        (OSError(28, "No space left on device", "last.pt"), r"last\.pt: No space left on device: check free space"),
        (MemoryError(), "out of memory: give the process more"),
        (UserError("two\nlines"), "two lines"),
    ],
)
def test_what_the_user_can_mend_is_one_line_with_the_remedy(
    error: Exception, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(_: object) -> None:
        raise error

    assert ended(fails, monkeypatch=monkeypatch) == 2
    assert re.fullmatch(rf"error: {message}.*\n", capsys.readouterr().err)


def test_a_member_has_one_writer_and_the_lock_ends_with_its_process(tmp_path: Path) -> None:
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom configs.files import only_writer\n"
        "with only_writer(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)\n"
    )
    path = tmp_path / "tiny" / "train.lock"
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    with pytest.raises(UserError, match=rf"tiny: another process \(pid {process.pid} on \S+\)"), only_writer(path):
        pass
    process.kill()
    process.communicate()
    for _ in range(2):
        with only_writer(path) as warning:
            assert warning is None
            assert path.read_text().startswith(f"pid {os.getpid()} on ")


def test_without_locks_the_user_is_warned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", unsupported)
    with only_writer(tmp_path / "train.lock") as warning:
        assert warning is not None
        assert "cannot be locked (Operation not supported)" in warning


def test_training_runs_in_a_thread_without_a_home_and_one_member_has_one_trainer(
    shard_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    monkeypatch.delenv("XDG_CACHE_HOME")
    words = tiny(shard_folder, tmp_path / "runs[/old]", "--epochs", "1", "--fold", "1")
    folder = tmp_path / "runs[/old]" / "tiny" / "fold1"
    with only_writer(folder / "train.lock"), pytest.raises(UserError, match=rf"another process \(pid {os.getpid()} on"):
        train.main(words)
    assert [path.name for path in folder.iterdir()] == ["train.lock"]
    (folder / "last.pt.17.abcdef01.tmp").write_bytes(b"left by a process that was killed")
    thread = threading.Thread(target=train.main, args=(words,))
    thread.start()
    thread.join()
    assert f"{folder}: best auc" in capsys.readouterr().out
    assert (folder / "oof.parquet").is_file()
    assert not list(folder.glob("*.tmp"))
