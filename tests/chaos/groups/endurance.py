"""Two hours' worth of epochs, compressed: memory, threads and descriptors stay where they were after the warm-up."""

import os
import statistics
import time
from functools import partial
from pathlib import Path

from tests.chaos.case import Case, Kind, Seen, crashed
from tests.chaos.children import Child
from tests.chaos.world import MEMBER, train_words

EPOCHS = 60
"""A fold of the reference recipe has 15 and takes one to two hours."""
GROWTH = 16e6
"""Bytes that the memory may grow between the second quarter and the last one, in the median."""


def _train(epochs: int, case: Case) -> Seen:
    out = case.place / "out"
    often = ["--epochs", str(epochs), "--batch-size", "8", "--save-every", "4"]
    child = case.start("train", *train_words(case.world.shards, out, *often))
    samples = []
    while (sample := _look(child)) is not None:
        samples.append(sample)
        time.sleep(0.1)
    ended = child.wait(5)
    bad = crashed(ended, f"{epochs} epochs")
    if bad is not None or ended.code:
        return bad or Seen(verdict="loss", words="ended with an error", detail=ended.output[-1500:])
    lines = (out / MEMBER / "metrics.jsonl").read_text().count("\n")
    quarter = len(samples) // 4
    before, after = samples[quarter : 2 * quarter], samples[3 * quarter : -2]
    memory, threads, files = (
        statistics.median(each[place] for each in after) - statistics.median(each[place] for each in before)
        for place in range(3)
    )
    words = f"{memory / 1e6:+.1f} MB, {threads:+.0f} threads, {files:+.0f} files"
    if memory > GROWTH or threads > 0 or files > 0:
        return Seen(verdict="loss", words="grows", detail=f"{words} in {epochs} epochs")
    return Seen(verdict="ok", words=f"flat: {words}", detail=f"{lines} lines", tries=1)


def _look(child: Child) -> tuple[int, int, int] | None:
    """Resident bytes, threads and descriptors of a command, None once it has ended."""
    folder = Path(f"/proc/{child.pid}")
    try:
        if folder.joinpath("stat").read_text().rpartition(")")[2].split()[0] == "Z":
            return None
        pages = int(folder.joinpath("statm").read_text().split()[1])
        threads, files = (len(list((folder / name).iterdir())) for name in ("task", "fd"))
        return pages * os.sysconf("SC_PAGE_SIZE"), threads, files
    except OSError:
        return None


KINDS = [
    Kind(
        injected=f"{EPOCHS} epochs",
        expected="memory within 16 MB, threads and descriptors as after the warm-up",
        attempt=partial(_train, EPOCHS),
        once=True,
    )
]
