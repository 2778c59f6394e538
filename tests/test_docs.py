"""The documents tell the truth: files, options and links are the repository's."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("configs", "prep", "loaders", "models", "engine", "evaluation", "report", "benchmarks")
DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_source_file_has_its_place_in_the_map(folder: str) -> None:
    block = re.search(rf"^{folder}/(.*?)(?=^\S)", (ROOT / "docs/map.md").read_text(), re.DOTALL | re.MULTILINE)
    assert block
    named = re.findall(r"(\w+\.py)\s", block.group(1))
    assert sorted(named) == sorted(path.name for path in (ROOT / folder).glob("*.py") if path.name != "__init__.py")


def test_every_option_that_a_document_names_is_in_the_sources() -> None:
    sources = "\n".join(path.read_text() for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
    sources += (ROOT / "benchmarks/peers/install.sh").read_text()
    known = set(re.findall(r"\w+", sources)) | {"nproc_per_node", "max_restarts"}  # torchrun's own
    for path in DOCS:
        for option in re.findall(r"`?--([a-z][a-z0-9_.-]*[a-z0-9])", path.read_text()):
            assert set(option.replace("-", "_").split(".")) <= known, f"{path.name}: --{option}"


def test_every_link_leads_somewhere() -> None:
    for path in DOCS:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 90


def test_requirements_are_the_projects_dependencies() -> None:
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert [line for line in lines if not line.startswith("#")] == project["dependencies"]
    assert project["dependencies"][0] in lines[0], "torch is installed first and alone"
