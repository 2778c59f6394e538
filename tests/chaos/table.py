"""What was tried and seen, as docs/reliability.md."""

import platform
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from tests.chaos.case import BAD
from tests.chaos.runner import JOBS, Tried

PATH = Path(__file__).resolve().parents[2] / "docs" / "reliability.md"
_HEAD = """# Reliability

Written by `python -m tests.chaos`, which injects faults into every file that a run reads, kills and starves its
commands, and looks at what comes of it.

- **silent**: the command ended well with another result and no word of it
- **hang**: it was still running after a minute, where it takes seconds (longer on a busy machine)
- **traceback**: it ended with a traceback, or by a signal that nobody sent
- **loss**: what was sound before was gone, or the same command again did not end as an undisturbed one
- **left**: a process lived on for 10 s, or temporary files stayed behind

A name like `--only "GROUP:KIND:NUMBER"` with the same `--seed` repeats a case.
"""


def summary(tried: Sequence[Tried]) -> str:
    """One line: how many cases, and how many of them went wrong in which way."""
    found = Counter[str]()
    for each in tried:
        found[each.seen.verdict] += 1
    count = sum(each.seen.tries for each in tried)
    return f"{count:,} faults in {len(tried):,} cases: " + ", ".join(f"{name} {found[name]}" for name in BAD)


def write_table(tried: Sequence[Tried], *, seed: int, seconds: float, path: Path = PATH) -> None:
    """Write the document."""
    when = f"{datetime.now(UTC):%Y-%m-%d}, {device()}, {seconds:,.0f} s with {JOBS} cases at a time, --seed {seed}"
    lines = [_HEAD, f"{when}.", "", f"**{summary(tried)}**", ""]
    lines += ["| group | injected | expected | tried | seen |", "| --- | --- | --- | --- | --- |"]
    for (group, kind), part in _by_kind(tried).items():
        seen = Counter[str]()
        for each in part:
            bad = f"**{each.seen.verdict}**: " if each.seen.verdict in BAD else ""
            seen[bad + each.seen.words] += each.seen.tries
        words = "; ".join(f"{what} {count}" for what, count in seen.most_common())
        lines.append(f"| {group} | {kind} | {part[0].attempt.kind.expected} | {sum(seen.values())} | {words} |")
    wrong = [each for each in tried if each.seen.verdict in BAD]
    if wrong:
        lines += ["", "## What went wrong", ""]
        lines += [f"- `{each.attempt.name}`: {each.seen.verdict}, {each.seen.words}" for each in wrong[:100]]
    path.write_text("\n".join(lines) + "\n")


def _by_kind(tried: Sequence[Tried]) -> dict[tuple[str, str], list[Tried]]:
    found: dict[tuple[str, str], list[Tried]] = {}
    for each in sorted(tried, key=lambda each: (each.attempt.group, each.attempt.number)):
        found.setdefault((each.attempt.group, each.attempt.kind.injected), []).append(each)
    return found


def device() -> str:
    """The processor and the operating system."""
    names = [line.split(":", 1)[1].strip() for line in _cpuinfo() if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, Python {platform.python_version()}, {platform.system()}"


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.is_file() else []
