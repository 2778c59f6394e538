"""README.md and RESULTS.md tell the truth: their figures are the records', the tree is the repository's."""

import re
from pathlib import Path

from benchmarks.results import all_records, page, with_table

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_the_figures_are_those_of_the_records() -> None:
    records = all_records()
    assert with_table(README, records) == README
    assert page(records) == (ROOT / "RESULTS.md").read_text()


def test_the_plots_of_the_results_exist() -> None:
    shown = re.findall(r"!\[.*?\]\((.*?)\)", (ROOT / "RESULTS.md").read_text())
    assert shown
    assert all((ROOT / path).read_bytes().startswith(b"\x89PNG") for path in shown)
