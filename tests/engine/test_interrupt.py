"""Signals: the current step is finished before the stream ends."""

import os
import signal
import subprocess
import sys
import time

import pytest

from engine.distributed import joined_ranks
from engine.interrupt import Stopped, StopRequest


def signalled(stop: StopRequest, steps: int, at: int, number: signal.Signals, seen: list[int]) -> None:
    for item in stop.over(range(steps)):
        if item == at:
            os.kill(os.getpid(), number)
        seen.append(item)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_stream_after_the_current_step(number: signal.Signals) -> None:
    seen: list[int] = []
    before = signal.getsignal(number)
    with joined_ranks("cpu") as ranks, StopRequest(ranks) as stop:
        with pytest.raises(Stopped):
            signalled(stop, 10, 3, number, seen)
        assert stop.name == number.name
    assert seen == [0, 1, 2, 3]
    assert signal.getsignal(number) == before


def test_a_signal_in_the_last_step_is_noticed() -> None:
    with joined_ranks("cpu") as ranks, StopRequest(ranks) as stop, pytest.raises(Stopped):
        signalled(stop, 3, 2, signal.SIGTERM, [])


def test_without_a_signal_the_stream_is_unchanged() -> None:
    with joined_ranks("cpu") as ranks, StopRequest(ranks) as stop:
        assert list(stop.over(range(5))) == [0, 1, 2, 3, 4]


def test_the_same_signal_at_once_counts_once_and_a_later_one_ends_the_process() -> None:
    code = (
        "import time\n"
        "from engine.distributed import joined_ranks\n"
        "from engine.interrupt import StopRequest\n"
        "with joined_ranks('cpu') as ranks, StopRequest(ranks):\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)
    time.sleep(1.2)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=300) == -signal.SIGTERM
    process.stdout.close()
