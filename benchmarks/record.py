"""The record of one run of benchmarks/throughput.py: what a file of benchmarks/results/throughput*.json holds."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentParser

from benchmarks.turns import Spread
from configs.errors import UserError

SCHEMA_VERSION = 2
Kind = Literal["limit", "ours", "peer"]
TITLES = {"flips": "decode and flip", "full": "the whole augmentation"}
"""The workloads (benchmarks/peers/job.py) in words."""


@dataclass(frozen=True, kw_only=True)
class LoaderFigures:
    """One loader on one workload, alone; all but the names are None where it `failed`."""

    name: str
    kind: Kind
    """limit, bare decoding; ours; or peer."""
    workload: str
    """flips or full."""
    failed: str = ""
    """Why there are no figures."""
    contract: str = ""
    """What its batches hold, in words."""
    threads: int = 0
    """Threads or worker processes."""
    versions: dict[str, str] = field(default_factory=dict)
    """Of the packages that do its work, as its own environment has them."""
    images_per_s: Spread | None = None
    """Steady, without the beginning of a turn and the batches around an epoch's end."""
    of_limit: Spread | None = None
    """As a multiple of bare libjpeg-turbo decoding on as many threads in the same rounds."""
    of_ours: Spread | None = None
    """As a multiple of our default in the same rounds."""
    tie: bool = False
    """Whether it is no further from ours than the A/A control of its workload, or its rounds do not agree which of the
    two is faster."""
    pixels: bool = False
    """Whether it reads pixels that were decoded before, and so decodes nothing."""
    first_batch_s: float | None = None
    """From opening to the first batch, in seconds; imports and conversion are done."""
    epoch_wait_ms: float | None = None
    """Median wait for an epoch's first batch, in milliseconds; None where no epoch ended."""
    cpu_us: float | None = None
    """CPU time an image, in microseconds, of all its processes."""
    memory_mib: float | None = None
    """Most that its processes held after a turn besides mapped files, in MiB."""
    gpu_mib: float | None = None
    """GPU memory that opening and the first batch took, in MiB; None without a GPU."""
    disk_mib: float | None = None
    """What it reads, on disk, in MiB."""


@dataclass(frozen=True, kw_only=True)
class TrainingFigures:
    """One backbone's training step, fed in four ways."""

    backbone: str
    size: int
    batch_size: int
    placement: str
    cache: str
    speed: dict[str, Any]
    """How the step was run: layout, compilation, CUDA graph."""
    images_per_s: dict[str, Spread]
    """loader: the stream, nothing trains; resident: the step on one batch; replayed: the step on kept real batches;
    real: both, as train.py does it."""
    noise: float
    """The A/A control: `resident`, measured twice a round."""
    saturation: Spread
    """real / replayed."""
    contention: Spread
    """replayed / resident."""
    utilisation: Spread
    """Share of the time that steps took, not the gaps between them: by CUDA events on a GPU, else by the wait for
    batches."""
    stage_us: dict[str, float]
    """Microseconds of the loader's threads an image, by stage; DALI's own threads and kernels show as the wait for
    them."""
    first_step_s: float
    """From the open session, compilation behind it, to the end of the first step, in seconds."""
    bound: str
    """step, loader, sharing or tie (loaders/verdict.py)."""
    verdict: str
    """What bounds this run and which setting to change."""
    work: "Work"
    peak_gpu_gib: float | None = None
    """Most GPU memory that torch reserved for it, in GiB; what DALI holds is not among it."""
    plain_images_per_s: float | None = None
    """The plain trainer's last epoch; None where it was not asked for, or failed."""
    plain_failed: str = ""
    """Why there is no figure of the plain trainer."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What one image costs a model, and what the machine made of it."""

    backbone: str
    size: int
    parameters_m: float
    """Millions."""
    gmacs: float
    """Of the forward pass, 10^9 multiply-adds."""
    activations_m: float
    """Elements that convolutions and linear layers put out in the forward pass, millions."""
    step_gflop: float = 0.0
    """Of forward and backward together, taken as three times the forward pass; 0 where no step was measured."""
    step_gb: float = 0.0
    """Bytes that the operators of an eager step read and write, 10^9."""
    flops_share: float | None = None
    """Achieved FLOP/s of the resident step as a share of the matrix product's in the same precision."""
    bandwidth_share: float | None = None
    """Achieved bytes/s as a share of the memory's copy rate; above 1 where caches or fusion spare the bus."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What this machine reaches, measured in the same run; how fast it decodes stands among the loaders, as limit."""

    memory_gb_per_s: dict[str, Spread]
    """Bytes copied in main memory, read and written counted once each, by threads."""
    matmul_tflops: Spread
    """A large matrix product in the precision that the step is run in."""
    precision: str
    device_gb_per_s: Spread | None = None
    """A copy within the GPU's memory, read and written."""
    to_device_gb_per_s: Spread | None = None
    """From pinned memory to the GPU."""
    nvjpeg_images_per_s: Spread | None = None
    """DALI's mixed decoder alone."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One setting of a sweep."""

    x: float
    y: Spread
    memory_mib: float | None = None
    open_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """One thing varied: the fitted line is y = intercept + slope * x, by least squares of relative errors."""

    name: str
    x_label: str
    y_label: str
    points: list[Point]
    intercept: float
    slope: float
    off: float | None
    """How far a point that was fitted lies from the line at most, as a share of it; None with fewer than three."""
    fitted: int
    """So many of the points, from the first on, were fitted."""
    meaning: str
    """What the line says, in words."""
    memory_slope: float | None = None
    """MiB more for one more x, by least squares."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """One run. noise: the A/A control of the loaders, our default measured twice in each round, by workload."""

    date: str
    device: str
    cores: int
    versions: dict[str, str]
    config: dict[str, Any]
    images: int
    """Training images of the set."""
    size: int
    mean_jpeg_bytes: int
    seconds: float
    """What the run took."""
    peak_host_mib: float
    """Most memory of the measuring process itself, with the buffers that limits are measured on."""
    failed: str = ""
    """Why loaders or scaling, though asked for, are not here."""
    noise: dict[str, float] = field(default_factory=dict)
    loaders: list[LoaderFigures] = field(default_factory=list)
    training: TrainingFigures | None = None
    limits: Limits | None = None
    models: list[Work] = field(default_factory=list)
    scaling: list[Sweep] = field(default_factory=list)
    costs: dict[str, float] = field(default_factory=dict)
    """What order, parameters and meter cost a step, in microseconds."""
    schema_version: int = SCHEMA_VERSION


def write(record: Record, path: Path) -> None:
    """As JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(record), indent=1) + "\n")
    print(f"record: {path}")


def read(path: Path) -> Record:
    """Read and check a record. Raises UserError where it is not one of this version."""
    content = json.loads(path.read_text())
    if content.get("schema_version") != SCHEMA_VERSION:
        raise UserError(f"{path} is no record of this version ({SCHEMA_VERSION}): measure again")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Record, "record")
    found: Record = parser.instantiate(parser.parse_object({"record": content})).record
    return found
