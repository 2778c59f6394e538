"""The direction of imports, folder by folder."""

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# What each folder may import from, besides itself.
ALLOWED = {
    "configs": set(),
    "prep": {"configs"},
    "models": {"configs"},
    "evaluation": {"configs"},
    "loaders": {"configs", "prep"},
    "engine": {"configs", "prep", "loaders", "models", "evaluation"},
    "report": {"configs", "prep", "loaders", "models", "evaluation", "engine"},
    "benchmarks": {"configs", "prep", "loaders", "models", "evaluation", "engine", "report"},
}


def folders_imported_by(path: Path) -> set[str]:
    """The project's folders that a file imports from, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module or "")
    return {name.split(".")[0] for name in names} & ALLOWED.keys()


@pytest.mark.parametrize("folder", ALLOWED)
def test_a_folder_imports_only_from_those_below_it(folder: str) -> None:
    files = list((ROOT / folder).rglob("*.py"))
    assert files
    for path in files:
        assert folders_imported_by(path) <= ALLOWED[folder] | {folder}, path


def modules_imported_by(path: Path) -> set[str]:
    """The project's modules that a file imports from, anywhere in it."""
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
    return {node.module for node in nodes if node.module and node.module.split(".")[0] in ALLOWED}


def test_there_are_no_circular_imports() -> None:
    files = [path for folder in ALLOWED for path in (ROOT / folder).rglob("*.py")]
    graph = {".".join(path.relative_to(ROOT).with_suffix("").parts): modules_imported_by(path) for path in files}
    assert len(list(TopologicalSorter(graph).static_order())) >= len(files)


def test_no_folder_imports_a_command_and_no_command_a_benchmark() -> None:
    for path in (ROOT / name for folder in ALLOWED for name in (ROOT / folder).rglob("*.py")):
        assert not re.search(r"^(from|import) (train|infer)\b", path.read_text(), re.MULTILINE), path
    for command in ("train.py", "infer.py"):
        assert "benchmarks" not in folders_imported_by(ROOT / command), command
