"""Ranks under a real torchrun whose launcher is killed, and a rank that falls silent."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.chaos.case import COMMANDS, Case, Kind, Seen, crashed
from tests.chaos.children import descendants, left_after
from tests.chaos.digests import member_digest
from tests.chaos.groups.kills import GRACE, again
from tests.chaos.world import MEMBER, start_ranks, train_words

ROOT = Path(__file__).resolve().parents[3]


def _launcher(case: Case) -> Seen:
    """torchrun dies as by `kill -9`: its ranks end, and two ranks can go on."""
    out, log = case.place / "runs", case.place / "torchrun.log"
    words = train_words(case.world.shards, out, "--save-every", "1")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "train.py"]
    with log.open("wb") as file:
        launcher = subprocess.Popen([*command, *words], cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)
    end = time.monotonic() + case.world.patience
    early = case.rng.random() < 0.3  # before the ranks have done anything; else once they have saved
    while launcher.poll() is None and time.monotonic() < end:
        ranks = [pid for pid in descendants(os.getpid()) if pid != launcher.pid]
        if len(ranks) == 2 if early else (out / MEMBER / "last.pt").is_file():
            break
        time.sleep(0.01)
    time.sleep(case.rng.uniform(0, case.world.seconds["pair"] if early else 0.5))
    launcher.send_signal(signal.SIGKILL)
    launcher.wait()
    left = left_after(GRACE)
    if left:
        return Seen(verdict="left", words="ranks left after 10 s", detail=f"{left}; {log.read_text()[-1000:]}")
    children = start_ranks(COMMANDS["train"], words, case.place / "again.log", 2)
    last, first = [child.wait(case.world.patience) for child in reversed(children)]
    same = lambda: member_digest(out / MEMBER) == case.world.digests["pair"]  # noqa: E731
    what = f"torchrun killed {'early' if early else 'after a save'} with {len(ranks)} ranks"
    return crashed(last, f"{what}; again") or again(first, what, same, out)


def _stopped(case: Case) -> Seen:
    """A rank is stopped: the other one ends within the timeout, with one line that names it."""
    out = case.place / "runs"
    words = train_words(case.world.shards, out, "--epochs", "500", "--timeout", "0.1")
    children = start_ranks(COMMANDS["train"], words, case.place / "rank.log", 2)
    end = time.monotonic() + case.world.patience
    while not (out / MEMBER / "metrics.jsonl").is_file() and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(case.rng.uniform(0, 2))
    silent = case.rng.randrange(2)
    children[silent].kill(signal.SIGSTOP)
    ended = children[1 - silent].wait(case.world.patience)
    children[silent].kill(signal.SIGKILL)
    children[silent].wait(5)
    bad = crashed(ended, f"rank {silent} stopped")
    if bad is not None:
        return bad
    if not ended.code:
        return Seen(verdict="silent", words="exit 0 without a rank", detail=ended.output[-1000:])
    named = f"rank {silent}" in ended.output
    words_of = "one line that names the rank" if named else "one line that does not name the rank"
    return Seen(verdict="ok", words=words_of, detail=ended.output[-1000:])


KINDS = [
    Kind(
        injected="the launcher of two ranks killed",
        expected="no process after 10 s; the same command again ends as an undisturbed one",
        attempt=_launcher,
    ),
    Kind(
        injected="a rank stopped (SIGSTOP)",
        expected="the others end within their timeout, in one line that names it",
        attempt=_stopped,
    ),
]
