"""Two processes that train one member where locks do not hold, as on some network file systems."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import ROOT, epoch_lines, tiny

from configs.errors import UserError
from engine.writer import WRITER, Writer

# train.py on a file system without locks.
WITHOUT_LOCKS = """
import fcntl, runpy, sys
def no_locks(*_):
    raise OSError(37, "No locks available")
fcntl.flock = no_locks
sys.argv[0] = "train.py"
runpy.run_path("train.py", run_name="__main__")
"""


def start(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WITHOUT_LOCKS, *words],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every file of a member but TensorBoard's, each process's own: its bytes, and when it was written."""
    files = [path for path in folder.iterdir() if not path.name.startswith("events.")]
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in files if path.suffix != ".tmp"}


def test_a_process_that_was_replaced_writes_nothing_more(shard_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tiny" / "fold0"
    words = tiny(shard_folder, tmp_path, "--fold=0", "--epochs=12", "--patience=0", "--log-every=1", "--save-every=2")
    with start(*words) as first:
        while not ((folder / "metrics.jsonl").is_file() and epoch_lines(folder)):
            assert first.poll() is None
            time.sleep(0.02)
        first.send_signal(signal.SIGSTOP)  # as if its host were cut off
        with start(*words) as second:
            said, errors = second.communicate(timeout=300)
        assert second.returncode == 0, errors
        assert "cannot be locked (No locks available)" in said
        assert "continuing after step" in said
        before = contents(folder)
        assert {"last.pt", "best.pt", "oof.parquet", "metrics.jsonl", WRITER} <= before.keys()
        first.send_signal(signal.SIGCONT)
        _, errors = first.communicate(timeout=300)
    assert first.returncode == 2
    now = (
        rf"another process trains this member now \(pid {second.pid} on \S+\); this one \(pid {first.pid} on \S+\) ends"
    )
    assert re.fullmatch(rf"error: {re.escape(str(folder))}: {now} and writes nothing more\n", errors), errors
    assert contents(folder) == before
    assert not list(folder.glob("*.tmp"))


def test_the_last_one_to_start_is_the_writer(tmp_path: Path) -> None:
    first = Writer(tmp_path)
    first.check()
    second = Writer(tmp_path)
    second.check()
    with pytest.raises(UserError, match=rf"another process trains this member now \(pid {os.getpid()} on "):
        first.check()
    (tmp_path / WRITER).unlink()
    with pytest.raises(UserError, match=r"\(train\.writer is gone\)"):
        second.check()
