"""Records: what a benchmark measured, on which machine, as JSON in benchmarks/results."""

import json
import platform
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jsonargparse import ArgumentParser

from benchmarks.rounds import Spread
from configs.errors import UserError
from configs.machine import usable_cores
from engine.records import versions

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
SCHEMA_VERSION = 3
Kind = Literal["limit", "ours", "peer"]


@dataclass(frozen=True, kw_only=True)
class LoaderFigures:
    """One loader alone on one workload, flips or full; without figures where it `failed`.

    kind: limit is bare decoding; contract: what its batches hold; images_per_s: steady;
    of_limit, of_ours: multiples of bare decoding and of our default, in the same rounds; tie: with our default; pixels:
    whether it reads stored pixels and decodes nothing; first_batch_s: from opening; epoch_wait_ms: median wait for an
    epoch's first batch; cpu_us: CPU time per image, and memory_mib: of all its processes; disk_mib: what it reads.
    """

    name: str
    kind: Kind
    workload: str
    failed: str = ""
    contract: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    images_per_s: Spread | None = None
    of_limit: Spread | None = None
    of_ours: Spread | None = None
    tie: bool = False
    pixels: bool = False
    first_batch_s: float | None = None
    epoch_wait_ms: float | None = None
    cpu_us: float | None = None
    memory_mib: float | None = None
    disk_mib: float | None = None


@dataclass(frozen=True, kw_only=True)
class TrainingFigures:
    """One backbone's training step, fed in four ways (benchmarks/training.py).

    noise: the A/A control, resident measured twice a round; saturation: real / replayed, and its 90 % interval;
    contention: replayed / resident; utilisation: share of the time that steps took, by CUDA events on a GPU, else by
    the wait for batches; stage_us: microseconds per image in the loader's threads; roofline: benchmarks/limits.py.
    """

    backbone: str
    batch_size: int
    placement: str
    cache: str
    speed: dict[str, Any]
    images_per_s: dict[str, Spread]
    noise: float
    saturation: Spread
    interval: tuple[float, float]
    contention: Spread
    utilisation: Spread
    stage_us: dict[str, float]
    bound: str
    verdict: str
    roofline: dict[str, float]
    peak_gpu_gib: float | None = None
    plain_images_per_s: float | None = None
    plain_failed: str = ""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One setting of a sweep; open_s: from opening to the first batch."""

    x: float
    y: Spread
    memory_mib: float
    open_s: float


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """One of benchmarks/scaling.py: one thing varied; a line is fitted to the first `fitted` points."""

    name: str
    points: list[Point]
    fitted: int

    def line(self) -> tuple[float, float]:
        """Intercept and slope by least squares of relative errors: y is measured to some percent of itself."""
        x, y = np.array([(point.x, point.y.median) for point in self.points[: self.fitted]]).T
        if len(x) < 2:
            return float(y[0]), 0.0
        slope, intercept = np.polyfit(x, y, 1, w=1 / y)
        return float(intercept), float(slope)


@dataclass(frozen=True, kw_only=True)
class Record:
    """One run of benchmarks/throughput.py.

    images: of the training set; seconds: what the run took; failed: why loaders or scaling, though asked for, are
    missing; noise: the A/A control of the loaders, by workload; limits and costs: benchmarks/limits.py.
    """

    date: str
    device: str
    versions: dict[str, str]
    config: dict[str, Any]
    images: int
    size: int
    mean_jpeg_bytes: int
    seconds: float
    failed: str = ""
    noise: dict[str, float] = field(default_factory=dict)
    loaders: list[LoaderFigures] = field(default_factory=list)
    training: TrainingFigures | None = None
    limits: dict[str, Spread] = field(default_factory=dict)
    scaling: list[Sweep] = field(default_factory=list)
    costs: dict[str, float] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION


def environment() -> dict[str, Any]:
    """Date, device and versions, for every record."""
    cpu = f"{platform.machine()} CPU"
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                cpu = f"{line.partition(':')[2].strip()} ({platform.machine()})"
    device = f"{cpu}, {usable_cores()} cores, no GPU"
    if torch.cuda.is_available():
        device = f"{torch.cuda.get_device_name()}, {usable_cores()} cores of {cpu}"
    return {"date": date.today().isoformat(), "device": device, "versions": versions()}


def write(path: Path, record: dict[str, Any]) -> None:
    """Write a record as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(f"record: {path}")


def read(path: Path) -> Record:
    """Read and check a record of benchmarks/throughput.py. Raises UserError where it is not one of this version."""
    content = json.loads(path.read_text())
    if content.get("schema_version") != SCHEMA_VERSION:
        raise UserError(f"{path} is no record of this version ({SCHEMA_VERSION}): measure again")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Record, "record")
    found: Record = parser.instantiate(parser.parse_object({"record": content})).record
    return found
