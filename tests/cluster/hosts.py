"""Two hosts on one machine: network namespaces with a host name each, joined by a cable that can be cut."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

from commands import ROOT

ADDRESSES = ("10.77.0.1", "10.77.0.2")
CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]


def missing() -> str:
    """Why this machine can hold no such hosts; empty if it can."""
    tools = [name for name in ("ip", "unshare", "taskset") if shutil.which(name) is None]
    if tools:
        return f"needs {', '.join(tools)}"
    name = f"probe{os.getpid()}"
    if subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode:
        return "needs the right to add network namespaces (root)"
    subprocess.run(["ip", "netns", "delete", name], check=True)
    return ""


class TwoHosts:
    """host0 and host1, which share the disk and nothing else; every process on them ends with the context."""

    def __init__(self) -> None:
        self._names = [f"isic{os.getpid()}n{number}" for number in range(2)]

    def __enter__(self) -> Self:
        for name in self._names:
            self._ip("netns", "add", name)
            self._ip("-n", name, "link", "set", "lo", "up")
        ends = [word for name in self._names for word in ("name", "cable", "netns", name)]
        self._ip("link", "add", *ends[:4], "type", "veth", "peer", *ends[4:])
        for name, address in zip(self._names, ADDRESSES, strict=True):
            self._ip("-n", name, "address", "add", f"{address}/24", "dev", "cable")
            self._ip("-n", name, "link", "set", "cable", "up")
        return self

    def __exit__(self, *_: object) -> None:
        for number, name in enumerate(self._names):
            for process in self.processes(number):
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            self._ip("netns", "delete", name)

    def start(self, number: int, log: Path, *words: str) -> subprocess.Popen[bytes]:
        """Start a command on a host, on a core of its own, with its output in `log`."""
        named = ["unshare", "--uts", "sh", "-c", 'hostname "$0"; exec "$@"', f"host{number}"]
        command = ["ip", "netns", "exec", self._names[number], *named]
        command += ["taskset", "-c", str(CORES[number % len(CORES)]), *words]
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}
        with log.open("ab") as file:
            return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=file)

    def processes(self, number: int) -> list[int]:
        """What runs on a host."""
        found = subprocess.run(["ip", "netns", "pids", self._names[number]], capture_output=True, check=True)
        return [int(word) for word in found.stdout.split()]

    def cut(self) -> None:
        """Cut the cable: nothing comes through, and nobody is told."""
        self._ip("-n", self._names[1], "link", "set", "cable", "down")

    def mend(self) -> None:
        """Join the hosts again."""
        self._ip("-n", self._names[1], "link", "set", "cable", "up")

    def _ip(self, *words: str) -> None:
        subprocess.run(["ip", *words], check=True)


def seconds_until(done: Callable[[], bool], most: float) -> float:
    """How long it takes until `done()`; AssertionError after `most` seconds."""
    begin = time.monotonic()
    while not done():
        assert time.monotonic() - begin < most, f"not within {most:.0f} s"
        time.sleep(0.2)
    return time.monotonic() - begin
