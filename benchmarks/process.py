"""A loader that is measured, in a process of its own: started, asked for rounds, stopped in between."""

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.peers.job import Job
from benchmarks.record import ROOT
from configs.errors import UserError

_START_SECONDS = 180
_ROUND_SECONDS = 120
Round = dict[str, Any]
"""What a loader did when it was its turn.

rate: images/s of the steady part; epoch_waits_s: for each first batch of an epoch; cpu_us: CPU time per image, and
memory_mib: of all its processes, mapped files not counted.
"""


class LoaderProcess:
    """benchmarks/peers/worker.py with one adapter, and all that it starts, in a process group of its own.

    Several may import at once; then each is opened alone, and stopped (SIGSTOP) while others are measured. The group
    belongs to our session, so that the kernel hangs it up should we be killed. Every method raises UserError, with the
    process's own last line, where it does not do what it was asked for. ready: what worker.py tells of its opening.
    """

    def __init__(self, adapter: str, job: Job, *, python: str = sys.executable, log: Path) -> None:
        words = [python, "-m", "benchmarks.peers.worker", adapter, json.dumps(asdict(job))]
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log = log
        self._cpu_before = 0.0
        self.ready: dict[str, Any] = {}
        pipe = subprocess.PIPE
        with log.open("w") as errors:
            self._process = subprocess.Popen(words, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=errors, process_group=0)

    def imported(self) -> None:
        """Wait until its process has imported what it needs."""
        self._answer(_START_SECONDS)

    def open(self) -> None:
        """Make it give its first batch; then it is stopped."""
        self._order("open")
        self.ready = self._answer(_START_SECONDS)
        self._signal(signal.SIGSTOP)
        if self.ready["wrong"]:
            raise UserError(self.ready["wrong"])

    def begin(self, seconds: float) -> None:
        """Let it run until `seconds` of its stream were steady."""
        self._cpu_before = sum(map(_cpu_seconds, self.processes()))
        self._signal(signal.SIGCONT)
        self._order(f"{seconds}")

    def end(self, seconds: float) -> Round:
        """Wait for what `begin` asked for, and stop it."""
        seen = self._answer(_ROUND_SECONDS + 10 * seconds)
        self._signal(signal.SIGSTOP)
        processes = list(self.processes())
        cpu = sum(map(_cpu_seconds, processes)) - self._cpu_before
        memory = round(sum(map(_memory_mib, processes)), 1)
        return {
            "rate": seen["images"] / seen["seconds"],
            "epoch_waits_s": seen["epoch_waits_s"],
            "cpu_us": cpu / seen["consumed"] * 1e6,
            "memory_mib": memory,
        }

    def run(self, seconds: float) -> Round:
        """Let it run alone for one round."""
        self.begin(seconds)
        return self.end(seconds)

    def close(self) -> None:
        """End it and all that it started."""
        self._signal(signal.SIGKILL)
        self._process.communicate()

    def processes(self) -> Iterator[Path]:
        """/proc/PID of everything in its group."""
        for stat in Path("/proc").glob("[0-9]*/stat"):
            if _fields(stat)[2:3] == [f"{self._process.pid}"]:
                yield stat.parent

    def _order(self, words: str) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # the answer tells why it has ended
            self._process.stdin.write(f"{words}\n".encode())
            self._process.stdin.flush()

    def _answer(self, seconds: float) -> dict[str, Any]:
        pipe, log = self._process.stdout, f" (see logs/{self._log.name} in the folder of --work)"
        assert pipe is not None
        if not select.select([pipe], [], [], seconds)[0]:
            raise UserError(f"no answer within {seconds:.0f} s{log}")
        line = pipe.readline()
        if not line:
            self._process.wait()
            said = self._log.read_text(errors="replace").strip().splitlines()
            raise UserError(said[-1] if said else f"it ended without a word, by signal or a full /dev/shm{log}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


def _fields(stat: Path) -> list[str]:
    """Those of /proc/PID/stat behind the command's name; none where the process has ended meanwhile."""
    try:
        return stat.read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _cpu_seconds(process: Path) -> float:
    return sum(map(int, _fields(process / "stat")[11:13])) / os.sysconf("SC_CLK_TCK")


def _memory_mib(process: Path) -> float:
    """What it holds besides mapped files: anonymous and shared pages, each by its share."""
    with suppress(OSError):
        lines = (process / "smaps_rollup").read_text().splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith(("Pss_Anon:", "Pss_Shmem:"))) / 1024
    return 0.0
