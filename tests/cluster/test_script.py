"""What scripts/nodes.sh refuses before torchrun starts."""

import subprocess

import pytest
from commands import ROOT


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["host", "2"], "usage: scripts/nodes.sh HEAD[:PORT] NODES [NPROC] train.py ..."),
        (["127.0.0.1:29400", "two", "train.py"], "NODES is 'two': give a number, or MIN:MAX"),
        (["nowhere.invalid", "2", "train.py"], "nowhere.invalid has no IPv4 address that is known here"),
        (["127.0.0.1", "1:2", "8", "train.py"], "127.0.0.1 is 127.0.0.1 here, which other hosts do not reach"),
    ],
)
def test_a_head_that_cannot_serve_is_refused_in_one_line(words: list[str], said: str) -> None:
    done = subprocess.run(["scripts/nodes.sh", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {said}")
    assert done.stderr.count("\n") == 1
