"""No file that is read can run code: checked in the sources, call by call."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("configs", "prep", "loaders", "models", "engine", "evaluation", "report", "benchmarks", "scripts")
SOURCES = [ROOT / "train.py", ROOT / "infer.py", *(path for name in FOLDERS for path in (ROOT / name).rglob("*.py"))]
# What turns bytes into objects of any class, or text into code, whatever it is given.
FORBIDDEN_CALLS = {
    *("eval", "exec", "compile", "__import__"),
    *("yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load", "yaml.Loader", "yaml.UnsafeLoader"),
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "pd.read_pickle", "pandas.read_pickle"),
    *("joblib.load", "torch.jit.load", "torch.hub.load", "torch.package.PackageImporter", "torch.export.load"),
    *("torch.serialization.add_safe_globals", "torch.serialization.safe_globals"),
}
FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
ALLOWED_NAMES = {"UnpicklingError"}
"""The error that torch raises for a file with code in it."""


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Every call of a dotted name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def faults(source: str) -> list[str]:
    """What in a source could run code that comes from data."""
    tree, found = ast.parse(source), []
    for name, call in calls(tree):
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        if name in FORBIDDEN_CALLS:
            found.append(f"line {call.lineno}: {name}")
        if name == "torch.load" and given.get("weights_only") != "True":
            found.append(f"line {call.lineno}: torch.load without weights_only=True")
        if name in ("np.load", "numpy.load") and given.get("allow_pickle", "False") != "False":
            found.append(f"line {call.lineno}: {name} with allow_pickle")
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in FORBIDDEN_MODULES:
            names = {alias.name for alias in node.names} - ALLOWED_NAMES
            found += [f"line {node.lineno}: from {node.module} import {name}" for name in sorted(names)]
        if isinstance(node, ast.ImportFrom) and (node.module, "load") in {("torch", a.name) for a in node.names}:
            found.append(f"line {node.lineno}: from torch import load")
        if (
            isinstance(node, ast.Attribute)
            and ast.unparse(node.value) in FORBIDDEN_MODULES
            and node.attr not in ALLOWED_NAMES
        ):
            found.append(f"line {node.lineno}: {ast.unparse(node)}")
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_source_runs_code_from_data(path: Path) -> None:
    assert not faults(path.read_text())


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "from torch import load",
        "yaml.load(text)",
        "yaml.load(text, Loader=yaml.UnsafeLoader)",
        "import pickle\npickle.loads(data)",
        "from pickle import loads",
        "np.load(path, allow_pickle=True)",
        "pd.read_pickle(path)",
        "eval(text)",
    ],
)
def test_the_check_sees(source: str) -> None:
    assert faults(source)


def test_the_check_lets_the_safe_ways_pass() -> None:
    assert not faults("torch.load(path, weights_only=True)\nyaml.safe_load(text)\nnp.load(path)\nmodel.eval()")
    assert not faults("import pickle\ntry:\n    pass\nexcept pickle.UnpicklingError:\n    pass")
