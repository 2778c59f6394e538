"""Commands killed at a random moment; then the same command again must end as an undisturbed one."""

import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.chaos.case import COMMANDS, Case, Kind, Seen, crashed
from tests.chaos.children import Ended, descendants, left_after
from tests.chaos.digests import csv_digest, member_digest, outputs_digest, page_digest, set_digest
from tests.chaos.world import MEMBER, infer_words, prep_words, report_words, start_ranks, train_words

_AGAIN = "the same command again ends as an undisturbed one"
GRACE = 10.0


def _prep(workers: str, case: Case) -> Seen:
    out = case.place / "set"
    words = prep_words(case.world.downloads, out, "--workers", workers)
    # A pool takes seconds to start, and the moment should also fall into the packing.
    span = case.world.seconds["prep"] + (0 if workers == "1" else 6)
    return _killed(case, "prep", words, span, lambda: set_digest(out) == case.world.digests["prep"], out.parent)


def _train(case: Case) -> Seen:
    out = case.place / "runs"
    words = train_words(case.world.shards, out, "--save-every", "1")
    return _killed(case, "train", words, case.world.seconds["train"], lambda: _same_member(case, out), out)


def _infer(case: Case) -> Seen:
    out = case.place / "out"
    words = infer_words(case.world.runs, case.world.shards, out, "--ensemble")
    same = lambda: outputs_digest(out) == case.world.digests["infer"]  # noqa: E731
    return _killed(case, "infer", words, case.world.seconds["infer"], same, out)


def _report(case: Case) -> Seen:
    out = case.place / "report"
    words = report_words(case.world.runs, case.world.shards, out, "--predictions", str(case.world.outputs))
    same = lambda: page_digest(out) == case.world.digests["report"]  # noqa: E731
    return _killed(case, "report", words, case.world.seconds["report"], same, out)


def _killed(case: Case, command: str, words: list[str], span: float, same: Callable[[], bool], folder: Path) -> Seen:
    """Kill once to three times within `span` seconds, then let it end; `folder` must then hold nothing temporary."""
    moments = [round(case.rng.uniform(0, span), 3) for _ in range(case.rng.randint(1, 3))]
    for moment in moments:
        child = case.start(command, *words)
        time.sleep(moment)
        child.kill()
        ended = child.wait(5)
        bad = None if ended.code == -signal.SIGKILL else crashed(ended, f"{command}, to be killed")
        if bad is not None:
            return bad
        left = left_after(GRACE)
        if left:
            return Seen(verdict="left", words="processes left after 10 s", detail=f"after {moment} s: {left}")
    if any(folder.rglob("*.tmp")):
        time.sleep(2.5)  # a file that young may have a writer that has not locked it yet
    return again(case.run(command, *words), f"{command}, killed after {moments} s", same, folder)


def again(ended: Ended, what: str, same: Callable[[], bool], folder: Path) -> Seen:
    """The outcome of the same command again."""
    bad = crashed(ended, f"{what}; again")
    if bad is not None:
        return bad
    if ended.code:
        return Seen(verdict="loss", words="the same command again is refused", detail=f"{what}: {ended.output[-1500:]}")
    if not same():
        return Seen(verdict="loss", words="the same command again ends otherwise", detail=what)
    temporary = [path.name for path in folder.rglob("*") if path.suffix == ".tmp" or ".partial" in path.name]
    if temporary:
        return Seen(verdict="left", words="temporary files left", detail=f"{what}: {temporary}")
    return Seen(verdict="ok", words="ended as undisturbed")


def _worker(case: Case) -> Seen:
    """A worker of prep's pool is killed, as the kernel does where memory runs out."""
    out = case.place / "set"
    words = prep_words(case.world.downloads, out, "--workers", "2")
    child = case.start("prep", *words)
    begun = time.monotonic()
    while len(workers := _python_below(child.pid)) < 2 and time.monotonic() < begun + 20:
        time.sleep(0.02)
    time.sleep(case.rng.uniform(0, 3))
    workers = [pid for pid in workers if pid in descendants(child.pid)]
    if workers:
        os.kill(case.rng.choice(workers), signal.SIGKILL)
    ended = child.wait(case.world.patience)
    bad = crashed(ended, "a worker of prep was killed")
    if bad is not None:
        return bad
    if ended.code and "error: " not in ended.output:
        return Seen(verdict="traceback", words=f"exit {ended.code} without a word", detail=ended.output[-1500:])
    same = lambda: set_digest(out) == case.world.digests["prep"]  # noqa: E731
    return again(case.run("prep", *words), "a worker of prep killed", same, out.parent)


def _python_below(root: int) -> list[int]:
    """Workers of a pool, not the process that tracks its resources."""
    found = []
    for pid in descendants(root):
        words = Path(f"/proc/{pid}/cmdline")
        if words.is_file() and b"spawn_main" in words.read_bytes():
            found.append(pid)
    return found


def _pair(everyone: bool, case: Case) -> Seen:
    """Two ranks without torchrun: one of them is killed, or both; then both start again."""
    out = case.place / "runs"
    words = train_words(case.world.shards, out, "--save-every", "1", "--timeout", "0.5")
    children = start_ranks(COMMANDS["train"], words, case.place / "first.log", 2)
    time.sleep(moment := round(case.rng.uniform(0, case.world.seconds["pair"]), 3))
    hit = children if everyone else [children[case.rng.randrange(2)]]
    for child in hit:
        child.kill()
    what = f"{len(hit)} of 2 ranks killed after {moment} s"
    for child in children:
        ended = child.wait(case.world.patience)
        bad = None if child in hit else crashed(ended, what)
        if bad is not None:
            return bad
    children = start_ranks(COMMANDS["train"], words, case.place / "again.log", 2)
    last, first = [child.wait(case.world.patience) for child in reversed(children)]
    return crashed(last, f"{what}; again") or again(first, what, lambda: _same_member(case, out, "pair"), out)


def _same_member(case: Case, out: Path, name: str = "train") -> bool:
    return member_digest(out / MEMBER) == case.world.digests[name]


def _export(case: Case) -> Seen:
    """An export killed: no half bundle takes the name."""
    out, answer = case.place / "bundle", case.place / "answer.csv"
    words = infer_words(case.world.runs, case.world.shards, case.world.outputs, "--export", str(out))
    child = case.start("infer", *words)
    time.sleep(case.rng.uniform(0, case.world.seconds["export"]))
    child.kill()
    child.wait(5)
    used = ["--bundle", out, "--image", case.world.image, "--csv", answer]
    if not out.exists():
        ended = case.run("infer", *words)
        bad = crashed(ended, "export again")
        if bad is not None or ended.code:
            return bad or Seen(verdict="loss", words="the same command again is refused", detail=ended.output[-1500:])
    same = lambda: csv_digest(answer) == case.world.digests["bundle"]  # noqa: E731
    return again(case.run("infer", *used), "export killed, then used", same, case.place)


KINDS = [
    Kind(injected="prep killed", expected=_AGAIN, attempt=partial(_prep, "1"), quick=True),
    Kind(injected="train killed", expected=_AGAIN, attempt=_train, quick=True),
    Kind(injected="infer killed", expected=_AGAIN, attempt=_infer, quick=True),
    Kind(injected="report killed", expected=_AGAIN, attempt=_report),
    Kind(injected="one of two ranks killed", expected=f"one line; {_AGAIN}", attempt=partial(_pair, False)),
    Kind(injected="both of two ranks killed", expected=_AGAIN, attempt=partial(_pair, True)),
    Kind(injected="prep on two processes killed", expected=f"its workers end; {_AGAIN}", attempt=partial(_prep, "2")),
    Kind(injected="a worker of prep killed", expected=f"one line; {_AGAIN}", attempt=_worker),
    Kind(injected="an export killed", expected="no half bundle", attempt=_export, once=True),
]
