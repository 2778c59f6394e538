"""Two of the same command at once, with the same folder to write to."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.chaos.case import Case, Kind, Seen, crashed
from tests.chaos.digests import member_digest, outputs_digest, set_digest
from tests.chaos.world import MEMBER, infer_words, prep_words, train_words


def _twice(
    make: Callable[[Case, Path], list[str]], same: Callable[[Case, Path], bool], command: str, case: Case
) -> Seen:
    """Start the second one within the first one's time; one of them, or both, must end as undisturbed."""
    out = case.place / "out"
    words = make(case, out)
    first = case.start(command, *words)
    time.sleep(gap := round(case.rng.uniform(0, case.world.seconds[command] / 2), 3))
    second = case.start(command, *words)
    ended = [first.wait(case.world.patience), second.wait(case.world.patience)]
    what = f"{command} twice, {gap} s apart"
    for each in ended:
        bad = crashed(each, what)
        if bad is not None:
            return bad
    codes, outputs = [each.code for each in ended], "\n---\n".join(each.output[-700:] for each in ended)
    if 0 not in codes:
        return Seen(verdict="loss", words="both ended with an error", detail=f"{what}: {outputs}")
    if not same(case, out):
        return Seen(verdict="loss", words="another result", detail=f"{what}: {outputs}")
    refused = sum(code != 0 for code in codes)
    lines = sum(each.output.count("error: ") for each in ended)
    if lines != refused:
        return Seen(verdict="traceback", words=f"{lines} lines of error", detail=f"{what}: {outputs}")
    words_of = "one of them refused in one line" if refused else "both ended well"
    return Seen(verdict="ok", words=f"{words_of}, the result as undisturbed")


KINDS = [
    Kind(
        injected=f"{command} twice at once",
        expected=expected,
        attempt=partial(_twice, make, same, command),
        quick=True,
    )
    for command, expected, make, same in (
        (
            "train",
            "the second is refused in one line, the first ends as undisturbed",
            lambda case, out: train_words(case.world.shards, out),
            lambda case, out: member_digest(out / MEMBER) == case.world.digests["train"],
        ),
        (
            "prep",
            "the second is refused in one line, the first ends as undisturbed",
            lambda case, out: prep_words(case.world.downloads, out),
            lambda case, out: set_digest(out) == case.world.digests["prep"],
        ),
        (
            "infer",
            "every file is one of theirs, whole",
            lambda case, out: infer_words(case.world.runs, case.world.shards, out, "--ensemble"),
            lambda case, out: outputs_digest(out) == case.world.digests["infer"],
        ),
    )
]
