"""One page about trained members: every figure a reader expects, and the audits of what they have learnt.

    python -m report --runs runs/main --shards shards/isic

Everything is computed from out-of-fold predictions: each image is scored by the members that were trained without it.
Writes OUT/report.html, which holds everything and opens offline, and OUT/report.md with a PNG for each figure and a
CSV for each table.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from configs.cli import parse, run_command, with_list
from configs.report import ReportConfig


def main(argv: Sequence[str]) -> None:
    """Parse, open, build the sections, write."""
    words = with_list(argv, "--compare")
    config = parse(ReportConfig, words, prog="python -m report", description=(__doc__ or "").split("\n")[0])
    # Imported after parsing: torch is slow to import, and --help should not wait for it.
    from loaders.shards import ShardSet
    from report.build import build_page
    from report.case import open_case
    from report.write import HTML, write_page

    out = Path(config.runs) / "report" if config.out is None else Path(config.out)
    with closing(ShardSet(Path(config.shards))) as shards:
        write_page(build_page(open_case(config, shards)), out)
    print(out / HTML)


if __name__ == "__main__":
    run_command(main)
