"""Several ranks: none outlives its launcher, none waits for ever, and one line names the one that is missing."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import ROOT, step_lines, tiny
from torch.distributed import TCPStore

from configs.files import only_writer

WAITING = """
import sys, time
sys.path.insert(0, {root!r})
import torch
from configs.cli import run_command
from engine.distributed import joined_ranks

def main(argv):
    with joined_ranks("cpu", timeout=4 / 60) as ranks:
        ranks.sum(torch.zeros(1))
        print("joined", flush=True)
        if ranks.rank == 1 and argv == ["sleeps"]:
            time.sleep(60)
        while True:
            ranks.sum(torch.zeros(1))

run_command(main)
"""


def ranks_of(launcher: int) -> list[int]:
    """The processes that torchrun has started for ranks, in the order of their ranks."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    return [int(word) for word in children if b"train.py" in Path(f"/proc/{word}/cmdline").read_bytes()]


def runs(process: int) -> bool:
    """Whether a process exists and has not ended."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(done: object, seconds: float) -> bool:
    """Whether `done()` comes true within some seconds."""
    end = time.monotonic() + seconds
    while not done():  # type: ignore[operator]
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_ranks_end_with_a_launcher_that_is_killed(shard_folder: Path, tmp_path: Path) -> None:
    words = tiny(shard_folder, tmp_path, "--epochs", "500", "--patience", "0", "--log-every", "1")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "train.py"]
    output = (tmp_path / "output").open("w")
    process = subprocess.Popen([*command, *words], cwd=ROOT, stdout=output, stderr=output)
    folder = tmp_path / "tiny" / "fold0"
    begun = wait_until(lambda: (folder / "metrics.jsonl").is_file() and len(step_lines(folder)) > 2, 240)
    ranks = ranks_of(process.pid)
    process.kill()
    process.wait()
    output.close()
    assert begun, (tmp_path / "output").read_text()
    assert len(ranks) == 2
    assert wait_until(lambda: not any(map(runs, ranks)), 60)
    with only_writer(folder / "train.lock"):  # the same command can start again
        pass


@pytest.mark.parametrize(
    ("fault", "victim", "said"),
    [
        (signal.SIGSTOP, 1, "rank 1 (pid {pid} on {host}) shows no sign of life"),
        pytest.param(*(signal.SIGSTOP, 0, "rank 0, which holds their store, does not answer"), marks=pytest.mark.long),
        (signal.SIGKILL, 1, "rank 1 (pid {pid} on {host}) shows no sign of life"),
        ("sleeps", 1, "rank 1 (pid {pid} on {host}) is alive, but did not come to the exchange"),
    ],
)
def test_a_rank_that_falls_silent_is_named_in_one_line(
    fault: signal.Signals | str, victim: int, said: str, tmp_path: Path
) -> None:
    script = tmp_path / "waiting.py"
    script.write_text(WAITING.format(root=str(ROOT)))
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # as torchrun holds it
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    if victim == 0:  # which holds it where there is no torchrun
        del store
        address["TORCHELASTIC_USE_AGENT_STORE"] = "False"
    processes = []
    for rank in range(3):
        numbers = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "3"}
        environment = {**os.environ, **address, **numbers, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(script), str(fault)]
        pipe = subprocess.PIPE
        processes.append(subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True))
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "joined\n"
    lost = processes.pop(victim)
    if isinstance(fault, signal.Signals):
        lost.send_signal(fault)
    errors = [process.communicate(timeout=300)[1] for process in processes]
    lost.kill()
    lost.communicate()
    assert [process.returncode for process in processes] == [2, 2]
    lines = "".join(errors).splitlines()
    # Where the store does not answer, nobody knows who has said it already.
    assert len(lines) == (2 if victim == 0 else 1)
    assert all(said.format(pid=lost.pid, host=socket.gethostname()) in line for line in lines)
