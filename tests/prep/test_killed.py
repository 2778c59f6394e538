"""A build killed at random moments, and run again: always the bytes of an undisturbed one."""

import hashlib
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import write_isic2019, write_isic2020

ROOT = Path(__file__).resolve().parents[2]


def digest(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A build of 700 images in six chunks and some twenty shards, on two workers."""
    root = tmp_path_factory.mktemp("killed")
    inputs = [write_isic2020(root / "2020", 400, 60), write_isic2019(root / "2019", 240)]
    command = [sys.executable, "prep/shard.py", "--isic2020", str(inputs[0]), "--isic2019", str(inputs[1])]
    return [*command, "--size", "128", "--samples-per-shard", "40", "--workers", "2", "--duplicates", "group", "--out"]


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.long)])
def test_killed_at_random_moments_the_next_run_ends_with_the_same_bytes(
    words: list[str], tmp_path: Path, kills: int
) -> None:
    start = time.monotonic()
    subprocess.run([*words, str(tmp_path / "whole")], cwd=ROOT, check=True, capture_output=True)
    duration = time.monotonic() - start
    wanted = digest(tmp_path / "whole")
    assert len(wanted) > 40
    moments = random.Random(0)
    out, killed, redone = tmp_path / "set", 0, 0
    while killed < kills:
        process = subprocess.Popen([*words, str(out)], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        # The first second or so only imports: moments in it are of no interest.
        time.sleep(moments.uniform(0.4, 1.0) * duration)
        process.send_signal(signal.SIGKILL)
        if process.wait() == -signal.SIGKILL:
            killed += 1
        kept = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("set.partial/*.done.json")}
        kept = {name.replace(".done.json", ".tar"): at for name, at in kept.items()}
        subprocess.run([*words, str(out)], cwd=ROOT, check=True, capture_output=True)
        assert digest(out) == wanted
        assert [path.name for path in tmp_path.iterdir() if path.name.startswith("set")] == ["set"]
        redone += sum((out / name).stat().st_mtime_ns > at for name, at in kept.items())
        for path in out.iterdir():
            path.unlink()
    assert redone == 0, "whole shards were made again"
