"""A loader that is measured, in a process of its own: started, asked for turns, kept still in between."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers.job import Job
from configs.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
_START_SECONDS = 180
_TURN_SECONDS = 120


class FailedError(UserError):
    """A loader did not do what it was asked for; the message is its own last line."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What a loader did when it was its turn.

    images, seconds: of the steady part; consumed: images of the whole turn; cpu_seconds: of all its processes in it.
    """

    images: int
    seconds: float
    consumed: int
    cpu_seconds: float
    epoch_waits_s: list[float]


class LoaderProcess:
    """benchmarks/peers/worker.py with one adapter, and all that it starts, in a process group of its own.

    Several may import at once; then each is opened alone, and stopped (SIGSTOP) while others are measured. The group
    belongs to our session, so that the kernel hangs it up should we be killed.

    first_batch_s: from the adapter's call to its first batch, imports done; contract: what its batches hold, in words;
    versions: of the packages that do its work, by name; gpu_mib: GPU memory that this took, None without a GPU.
    """

    def __init__(self, adapter: str, job: Job, *, python: str = sys.executable, log: Path) -> None:
        words = [python, "-m", "benchmarks.peers.worker", adapter, json.dumps(asdict(job))]
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log = log
        self._cpu_before = 0.0
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, process_group=0
            )
        self.first_batch_s = 0.0
        self.contract = ""
        self.versions: dict[str, str] = {}
        self.gpu_mib: float | None = None

    def imported(self) -> None:
        """Wait until its process has imported what it needs. Raises FailedError where it cannot."""
        self._answer(_START_SECONDS)

    def open(self) -> None:
        """Make it give its first batch; then it is kept still. Raises FailedError where the batch is not as agreed."""
        self._order("open")
        ready = self._answer(_START_SECONDS)
        self._signal(signal.SIGSTOP)
        if ready["wrong"]:
            raise FailedError(ready["wrong"])
        self.first_batch_s, self.contract = ready["first_batch_s"], ready["contract"]
        self.versions, self.gpu_mib = ready["versions"], ready["gpu_mib"]

    def turn(self, seconds: float) -> Turn:
        """Let it run alone until `seconds` of its stream were steady."""
        self.begin(seconds)
        return self.end(seconds)

    def begin(self, seconds: float) -> None:
        """Let it run."""
        self._cpu_before = self._cpu_seconds()
        self._signal(signal.SIGCONT)
        self._order(f"{seconds}")

    def end(self, seconds: float) -> Turn:
        """Wait for what `begin` asked for, and keep it still."""
        seen = self._answer(_TURN_SECONDS + 10 * seconds)
        self._signal(signal.SIGSTOP)
        return Turn(**seen, cpu_seconds=self._cpu_seconds() - self._cpu_before)

    @property
    def memory_mib(self) -> float | None:
        """What its processes hold besides files, pages they share counted once; None where the kernel does not tell."""
        found = [_own_memory(one) for one in self._processes()]
        return round(sum(found) / 2**20, 1) if found else None

    def _cpu_seconds(self) -> float:
        return sum(_cpu_seconds(one) for one in self._processes())

    def close(self) -> None:
        """End it and all that it started."""
        self._signal(signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()

    def _order(self, words: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{words}\n".encode())
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise FailedError(self._last_words()) from error

    def _answer(self, seconds: float) -> dict[str, Any]:
        pipe = self._process.stdout
        assert pipe is not None
        if not select.select([pipe], [], [], seconds)[0]:
            raise FailedError(f"no answer within {seconds:.0f} s{self._see()}")
        line = pipe.readline()
        if not line:
            self._process.wait()
            raise FailedError(self._last_words())
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _last_words(self) -> str:
        lines = [line.strip() for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        return lines[-1] if lines else f"it ended without a word, by signal or a full /dev/shm{self._see()}"

    def _see(self) -> str:
        return f" (see logs/{self._log.name} in the folder of --work)"

    def _processes(self) -> list[Path]:
        """/proc/PID of everything in its group."""
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                group = int(stat.read_text().rpartition(")")[2].split()[2])
            except (OSError, ValueError, IndexError):  # ended meanwhile
                continue
            if group == self._process.pid:
                found.append(stat.parent)
        return found

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


def _own_memory(process: Path) -> int:
    """Bytes that are not files mapped: anonymous and shared pages, each by its share."""
    try:
        lines = (process / "smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    fields = {
        name: int(rest.split()[0]) * 1024
        for name, _, rest in (line.partition(":") for line in lines)
        if rest.split()[-1:] == ["kB"]
    }
    return fields.get("Pss_Anon", 0) + fields.get("Pss_Shmem", 0)


def _cpu_seconds(process: Path) -> float:
    try:
        fields = (process / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
