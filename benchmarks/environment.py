"""What a record says of the machine it was made on."""

import json
import platform
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any

from configs.machine import usable_cores
from engine.records import versions

RESULTS = Path(__file__).resolve().parent / "results"
"""Where records are kept."""


def environment() -> dict[str, Any]:
    """Date, device and versions."""
    import torch

    device = f"{_cpu()}, {usable_cores()} cores, no GPU"
    if torch.cuda.is_available():
        device = f"{torch.cuda.get_device_name()}, {usable_cores()} cores of {_cpu()}"
    return {"date": date.today().isoformat(), "device": device, "versions": versions()}


def _cpu() -> str:
    """Its name where Linux tells it, and its architecture."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return f"{line.partition(':')[2].strip()} ({platform.machine()})"
    return f"{platform.machine()} CPU"


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Write a record as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(f"record: {path}")
