"""Inject faults into everything a run reads and does, and see what comes of it.

    python -m tests.chaos                                  # 14 minutes or a little more, then docs/reliability.md
    python -m tests.chaos --minutes 2 --only kills         # one group, no table
    python -m tests.chaos --only "bits:KIND:3" --seed 0    # one case again, as the table names it

Linux, two cores; as root also full and read-only disks. Exit code 1 where a fault was silent, hung, ended in a
traceback, lost something, or left something behind.
"""

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, which would start threads
os.environ["TORCH_CPP_LOG_LEVEL"] = "ERROR"  # as run_command sets it, before a command imports torch

from tests.chaos.case import BAD, Kind
from tests.chaos.children import own_threads
from tests.chaos.groups import GROUPS
from tests.chaos.runner import Attempt, Tried, attempts, run
from tests.chaos.table import summary, write_table
from tests.chaos.world import make_world


def main(argv: Sequence[str]) -> int:
    """Make a sound world, try faults on it until the time is over, print and write what was seen."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", allow_abbrev=False, description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--minutes", type=float, default=14.0, help="how long, set-up included; then what is under way is finished"
    )
    parser.add_argument("--seed", type=int, default=0, help="of every choice")
    parser.add_argument("--only", default="", help=f"one group ({', '.join(GROUPS)}), or GROUP:KIND:NUMBER")
    parser.add_argument("--quick", action="store_true", help="only the kinds that take a second or two")
    options = parser.parse_args(argv)
    begun = time.monotonic()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # clean up as after Ctrl-C
    groups = _chosen(options.only, quick=options.quick)
    root = Path(tempfile.mkdtemp(prefix="chaos-"))
    try:
        world = make_world(root, whole=not options.quick)
        threads = own_threads()
        assert not threads, f"a process that forks must have no threads, but there are {threads}"
        print(f"a sound world in {time.monotonic() - begun:.0f} s", flush=True)
        todo = attempts(groups, options.seed)
        if options.only.count(":") == 2:
            number = int(options.only.rpartition(":")[2])
            kind = next(iter(groups.values()))[0]
            todo = iter([Attempt(group=next(iter(groups)), kind=kind, number=number, seed=options.seed)])
        end = begun + 60 * options.minutes
        tried = run(todo, world, root, least=len(groups), end=end, tell=_tell)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    print(summary(tried))
    if not options.only and not options.quick:
        write_table(tried, seed=options.seed, seconds=time.monotonic() - begun)
    return int(any(each.seen.verdict in BAD for each in tried))


def _chosen(only: str, *, quick: bool) -> dict[str, list[Kind]]:
    """The kinds of each group that are asked for."""
    group, _, rest = only.partition(":")
    if group and group not in GROUPS:
        sys.exit(f"error: --only {group}: no such group; there are {', '.join(GROUPS)}")
    name = rest.rpartition(":")[0]
    found = {
        each: [kind for kind in kinds if (kind.quick or not quick) and name in ("", kind.injected)]
        for each, kinds in GROUPS.items()
        if group in ("", each)
    }
    if not any(found.values()):
        sys.exit(f"error: --only {only}: no such kind in {group}")
    return {each: kinds for each, kinds in found.items() if kinds}


def _tell(tried: Tried) -> None:
    """A line for each case, and everything about one that went wrong, or whose message could be better."""
    seen = tried.seen
    mark = "  " if seen.verdict not in BAD else "! "
    print(f"{mark}{tried.attempt.name}: {seen.verdict}, {seen.words} ({tried.seconds:.1f} s)", flush=True)
    if seen.verdict in BAD or "without the name" in seen.words or "unexpected" in seen.words:
        print("    " + seen.detail.replace("\n", "\n    "), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
