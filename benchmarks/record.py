"""Records: what a benchmark measured, on which machine, as JSON in benchmarks/results."""

import json
import platform
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any

import torch

from configs.errors import UserError
from configs.machine import usable_cores
from engine.records import versions

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
SCHEMA_VERSION = 3
Record = dict[str, Any]


def write(path: Path, record: Record) -> Record:
    """Write a record as JSON, and return it, with the date, the device and the versions it was measured with."""
    record = {**environment(), **record}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"schema_version": SCHEMA_VERSION, **record}, indent=1) + "\n")
    print(f"record: {path}")
    return record


def read(path: Path) -> Record:
    """Read a record. Raises UserError where it is not one of this version."""
    content: Record = json.loads(path.read_text())
    if content.pop("schema_version", None) != SCHEMA_VERSION:
        raise UserError(f"{path} is no record of this version ({SCHEMA_VERSION}): measure again")
    return content


def environment() -> Record:
    """Date, device and versions."""
    cpu = f"{platform.machine()} CPU"
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                cpu = f"{line.partition(':')[2].strip()} ({platform.machine()})"
    device = f"{cpu}, {usable_cores()} cores, no GPU"
    if torch.cuda.is_available():
        device = f"{torch.cuda.get_device_name()}, {usable_cores()} cores of {cpu}"
    return {"date": date.today().isoformat(), "device": device, "versions": versions()}
