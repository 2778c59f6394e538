"""README.md and RESULTS.md tell the truth: their figures are the records', the tree is the repository's."""

import re
from pathlib import Path

from benchmarks.readme import with_table
from benchmarks.results import other_records, page, throughput_records

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_the_figures_are_those_of_the_records() -> None:
    records = throughput_records()
    assert with_table(README, records, other_records()) == README
    assert page(records) == (ROOT / "RESULTS.md").read_text()


def test_the_plots_of_the_results_exist() -> None:
    shown = re.findall(r"!\[.*?\]\((.*?)\)", (ROOT / "RESULTS.md").read_text())
    assert shown
    assert all((ROOT / path).read_bytes().startswith(b"\x89PNG") for path in shown)


def test_every_source_file_has_its_line_in_the_tree() -> None:
    tree = README.split("## What is where")[1]
    for folder in ("configs", "prep", "loaders", "models", "engine", "evaluation", "report", "benchmarks"):
        block = re.search(rf"^{folder}/(.*?)(?=^\S)", tree, re.DOTALL | re.MULTILINE)
        assert block, folder
        named = set(re.findall(r"(\w+\.py)", block.group(1)))
        assert named == {path.name for path in (ROOT / folder).glob("*.py")} - {"__init__.py"}, folder
