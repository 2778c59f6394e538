"""scripts/nodes.sh on two hosts: what one host would train, and what comes of a cable that is cut."""

import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from commands import ROOT, assert_same_run, step_lines, tiny
from hosts import ADDRESSES, CORES, TwoHosts, missing, seconds_until

from configs.schema import AugmentConfig
from loaders.order import Partition
from loaders.request import train_requests
from loaders.shards import ShardSet

REASON = missing()
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON)

# Writes a line for each step and each checkpoint: when, which process, what.
HOOK = """
import json, os, sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
import engine.run
import train
from configs.cli import run_command
from engine.step import Step

steps, saves = Step.__call__, engine.run.save_checkpoint

def log(*what):
    with Path(__file__).with_suffix(f".{{os.getpid()}}").open("a") as file:
        file.write(json.dumps([time.time(), os.getpid(), *what]) + chr(10))

def call(step, batch):
    log("step", step.rank, int(os.environ["WORLD_SIZE"]), batch.epoch, batch.step, batch.index[batch.valid].tolist())
    return steps(step, batch)

def save(content, path, *more):
    saves(content, path, *more)
    log("saved", path.name, content["epoch"], content["step"])

Step.__call__, engine.run.save_checkpoint = call, save
run_command(train.main)
"""


@pytest.fixture
def hosts() -> Iterator[TwoHosts]:
    with TwoHosts() as found:
        yield found


@pytest.mark.long
def test_two_hosts_train_what_one_host_trains_with_two_ranks(
    hosts: TwoHosts, shard_folder: Path, tmp_path: Path
) -> None:
    words = ["--epochs", "2", "--log-every", "1", "--optim.ema", "0.9"]
    command = ["scripts/nodes.sh", ADDRESSES[0], "2", "1", "train.py", *tiny(shard_folder, tmp_path / "two", *words)]
    logs = [tmp_path / f"log{number}" for number in range(2)]
    processes = [hosts.start(number, log, *command) for number, log in reversed(list(enumerate(logs)))]
    codes = [process.wait(timeout=300) for process in processes]
    assert codes == [0, 0], "".join(log.read_text() for log in logs)
    command = ["taskset", "-c", ",".join(map(str, CORES[:2])), sys.executable, "-m", "torch.distributed.run"]
    command += ["--standalone", "--nproc-per-node", "2", "train.py", *tiny(shard_folder, tmp_path / "one", *words)]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True, timeout=300)
    assert_same_run(*(tmp_path / name / "tiny" / "fold0" for name in ("one", "two")))


class Training:
    """A training by scripts/nodes.sh on two hosts, which never ends by itself, and its log."""

    def __init__(self, hosts: TwoHosts, nodes: str, shards: Path, folder: Path) -> None:
        self.hosts, self._folder, self.member = hosts, folder, folder / "runs" / "tiny" / "fold0"
        hook = folder / "hook.py"
        hook.write_text(HOOK.format(root=str(ROOT)))
        words = tiny(shards, folder / "runs", "--epochs", "100000", "--patience", "0", "--log-every", "1")
        words += ["--save-every", "3", "--timeout", str(20 / 60)]
        self._command = ["scripts/nodes.sh", ADDRESSES[0], nodes, "1", str(hook), *words]
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, number: int) -> None:
        self.processes.append(self.hosts.start(number, self._folder / f"log{number}", *self._command))

    def said(self, number: int) -> str:
        """What a host has printed."""
        return (self._folder / f"log{number}").read_text()

    def lines(self, what: str) -> list[list[Any]]:
        """Steps or saves so far, in the order of their time: [time, process, ...]."""
        logs = [log.read_text().rpartition("\n")[0].splitlines() for log in self._folder.glob("hook.[0-9]*")]
        return [
            [line[0], line[1], *line[3:]]
            for line in sorted(json.loads(one) for log in logs for one in log)
            if line[2] == what
        ]

    def has_ended(self) -> bool:
        """Whether one of the hosts' commands has."""
        return any(process.poll() is not None for process in self.processes)

    def steps(self) -> int:
        """Steps in metrics.jsonl."""
        return len(step_lines(self.member)) if (self.member / "metrics.jsonl").is_file() else 0

    def ranks(self, world: int) -> set[int]:
        """The processes that have trained as one of `world` ranks."""
        return {line[1] for line in self.lines("step") if line[3] == world}


def runs(process: int) -> bool:
    """Whether a process exists and has not ended."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def cut_at_a_random_step(training: Training, seed: int) -> set[int]:
    """Start on both hosts, and cut the cable once some steps are done; returns the ranks, all of which have ended."""
    for number in range(2):
        training.start(number)
    step = random.Random(seed).randrange(3, 60)
    seconds_until(lambda: training.has_ended() or training.steps() >= step, 300)
    assert not training.has_ended(), training.said(0) + training.said(1)
    ranks = training.ranks(2)
    assert len(ranks) == 2
    training.hosts.cut()
    seconds = seconds_until(lambda: not any(map(runs, ranks)), 50)
    print(f"cut after step {step}: the ranks have ended after {seconds:.0f} s")
    assert re.search(r"the ranks lost one of them: rank 1 \(pid \d+ on host1\) shows no sign of life", training.said(0))
    assert re.search(r"the ranks lost one of them: rank 0, which holds their store, does not answer", training.said(1))
    return ranks


@pytest.mark.long
@pytest.mark.parametrize("seed", range(10))
def test_after_a_cut_every_rank_names_the_lost_one_and_no_process_is_left(
    seed: int, hosts: TwoHosts, shard_folder: Path, tmp_path: Path
) -> None:
    training = Training(hosts, "2", shard_folder, tmp_path)
    cut_at_a_random_step(training, seed)
    seconds = seconds_until(lambda: not any(process.poll() is None for process in training.processes), 70)
    seconds += seconds_until(lambda: not hosts.processes(0) + hosts.processes(1), 10)
    print(f"no process is left {seconds:.0f} s later")


@pytest.mark.long
@pytest.mark.parametrize("seed", range(10))
def test_one_host_goes_on_alone_and_with_the_other_when_it_returns(
    seed: int, hosts: TwoHosts, shard_folder: Path, tmp_path: Path
) -> None:
    training = Training(hosts, "1:2", shard_folder, tmp_path)
    first = cut_at_a_random_step(training, seed)
    alone = seconds_until(lambda: bool(training.ranks(1)), 120)
    left = seconds_until(lambda: not hosts.processes(1), 70)
    hosts.mend()
    training.start(1)
    together = seconds_until(lambda: len(training.ranks(2) - first) == 2, 180)
    print(f"alone after {alone:.0f} s more, host1 empty after {left:.0f} s more, two ranks {together:.0f} s after that")
    for process in training.processes:
        process.kill()
        process.wait()
    # Each rank's share of each step is that of an undisturbed run.
    with closing(ShardSet(shard_folder)) as shards:
        rows = shards.train_rows(0)
    steps = training.lines("step")
    expected = {}
    for rank, world in {(line[2], line[3]) for line in steps}:
        partition = Partition(samples=len(rows), batch_size=16, rank=rank, world_size=world)
        epochs = range(max(line[4] for line in steps) + 1)
        for one in train_requests(rows, partition, AugmentConfig(), seed=0, size=64, epochs=epochs):
            expected[rank, world, one.epoch, one.step] = one.index[one.valid].tolist()
    assert all(line[6] == expected[tuple(line[2:6])] for line in steps)
    cursors = [(line["epoch"], line["step"]) for line in step_lines(training.member)]
    assert cursors == sorted(set(cursors))
    assert len(cursors) == cursors[-1][0] * partition.steps + cursors[-1][1]  # none is left out
    # A process writes nothing any more once another one trains in its place.
    begun = {line[1]: line[0] for line in reversed(steps) if line[2] == 0}
    saved = {line[1]: line[0] for line in training.lines("saved")}
    writers = sorted(begun, key=lambda process: begun[process])
    assert len(writers) >= 3
    assert all(saved.get(one, 0.0) < begun[after] for one, after in pairwise(writers))
