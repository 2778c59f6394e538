"""What a record says of the machine it was made on."""

import json
import os
import platform
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

_PACKAGES = (
    *("torch", "timm", "nvidia-dali-cuda130", "webdataset", "numpy"),
    *("opencv-python-headless", "simplejpeg", "scikit-learn"),
)


def environment() -> dict[str, Any]:
    """Date, device and versions."""
    import torch

    device = f"{platform.machine()} CPU, {os.cpu_count()} cores, no GPU"
    if torch.cuda.is_available():
        device = f"{torch.cuda.get_device_name()}, {os.cpu_count()} CPU cores"
    versions = {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}}
    return {"date": date.today().isoformat(), "device": device, "versions": versions}


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Write a record as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(f"record: {path}")
