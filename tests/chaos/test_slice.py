"""Half a minute of the fault injection: none of it may go wrong. CHAOS_SEED=N tries other faults."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.groups import GROUPS

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(sys.platform != "linux", reason="forks, and reads /proc")
def test_a_slice_of_the_faults_runs_clean() -> None:
    seed = os.environ.get("CHAOS_SEED", "0")
    command = [sys.executable, "-m", "tests.chaos", "--quick", "--minutes", "0.5", "--seed", seed]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=600)
    tried = {line[2:].partition(":")[0] for line in done.stdout.splitlines() if line.startswith("  ")}
    assert done.returncode == 0, f"--seed {seed}\n{done.stdout}\n{done.stderr}"
    wanted = {group for group, kinds in GROUPS.items() if any(kind.quick for kind in kinds)}
    assert tried >= wanted, f"each group is tried, however busy the machine\n{done.stdout}"
