"""A build killed at random moments, and run again: always the bytes of an undisturbed one."""

import hashlib
import multiprocessing
import os
import random
import signal
import sys
import time
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from conftest import write_isic2019, write_isic2020

from configs.prep import PrepConfig
from prep.build import build


def digest(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def started(config: PrepConfig) -> BaseProcess:
    """A build in a process of its own, forked from one that has imported everything already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["prep.build"])
    process = context.Process(target=build, args=(config,))
    process.start()
    return process


def watched(process: BaseProcess, folder: Path, count: int) -> int:
    """Wait until so many files have been seen in the folder of a build under way, or it ends; how many were seen."""
    seen: set[str] = set()
    while process.is_alive() and len(seen) < count:
        seen.update(name for _, _, names in os.walk(folder) for name in names)
        time.sleep(0.005)
    return len(seen)


def built(config: PrepConfig) -> int:
    """Build to the end; how many files were seen on the way."""
    process = started(config)
    files = watched(process, Path(f"{config.out}.partial"), sys.maxsize)
    process.join()
    assert process.exitcode == 0
    return files


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> PrepConfig:
    """A build of 400 images in four chunks and some twenty shards."""
    root = tmp_path_factory.mktemp("killed")
    isic2020, isic2019 = write_isic2020(root / "2020", 240, 20), write_isic2019(root / "2019", 140)
    config = PrepConfig(isic2020=str(isic2020), isic2019=str(isic2019), out=str(root / "whole"), duplicates="group")
    return replace(config, size=128, samples_per_shard=20)


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.long)])
def test_killed_at_random_moments_the_next_run_ends_with_the_same_bytes(
    config: PrepConfig, tmp_path: Path, kills: int
) -> None:
    files = {count: built(replace(config, out=str(tmp_path / f"whole{count}"), workers=count)) for count in (1, 2)}
    wanted = digest(tmp_path / "whole1")
    assert len(wanted) > 40
    moments = random.Random(0)
    out, killed, redone = tmp_path / "set", 0, 0
    config = replace(config, out=str(out))
    for _ in range(3 * kills):  # a build may have ended before it could be killed
        if killed == kills:
            break
        config = replace(config, workers=1 + killed % 2)
        process = started(config)
        watched(process, tmp_path / "set.partial", moments.randrange(files[config.workers]))
        time.sleep(moments.uniform(0.0, 0.05))
        process.kill()
        process.join()
        killed += process.exitcode == -signal.SIGKILL
        kept = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("set.partial/*.done.json")}
        kept = {name.replace(".done.json", ".tar"): at for name, at in kept.items()}
        built(config)
        assert digest(out) == wanted
        assert [path.name for path in tmp_path.iterdir() if path.name.startswith("set")] == ["set"]
        redone += sum((out / name).stat().st_mtime_ns > at for name, at in kept.items())
        for path in out.iterdir():
            path.unlink()
    assert killed == kills
    assert redone == 0, "whole shards were made again"
