"""requirements.lock: every package of pyproject.toml in its version, each of its files with a SHA-256."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]


def locked() -> dict[str, list[str]]:
    """Each requirement of the lock, without its hashes -> its hashes."""
    lines = (ROOT / "requirements.lock").read_text().replace(" \\\n", "").splitlines()
    entries = [line.split(" --hash=") for line in map(str.strip, lines) if line and not line.startswith("#")]
    return {words[0].strip(): [each.strip() for each in words[1:]] for words in entries}


def test_it_holds_what_the_project_needs_in_the_same_versions() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    wanted = [
        *project["build-system"]["requires"],  # which builds the project without a look at the index
        *project["project"]["dependencies"],
        *(each for extra in ("export", "dev") for each in extras[extra] if not each.startswith("melanoma[")),
    ]
    known = {(one.name, str(one.specifier)) for one in map(Requirement, locked())}
    missing = [one for one in map(Requirement, wanted) if (one.name, str(one.specifier)) not in known]
    assert [one.name for one in missing] == ["torch"], "run scripts/lock after a change of pyproject.toml"


def test_every_package_has_one_version_and_the_hashes_of_its_files() -> None:
    found = locked()
    assert len(found) > 50
    for name, hashes in found.items():
        assert hashes, name
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", each) for each in hashes), name
        assert re.fullmatch(r"==[^*,]+", str(Requirement(name).specifier)), name


def test_torch_and_its_own_libraries_are_left_to_the_machine() -> None:
    names = {Requirement(one).name for one in locked()}
    assert not names & {"torch", "triton", "nvidia-cudnn-cu13", "nvidia-cublas", "nvidia-nccl-cu13"}
