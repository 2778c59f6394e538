"""Who is measured: bare decoding, our placements and tiers, every peer; and where each one's environment lies."""

import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from benchmarks.peers.job import WORKLOADS, Job
from benchmarks.process import ROOT
from benchmarks.record import Kind
from benchmarks.trainer import export
from configs.errors import UserError
from loaders.placement import chosen_placement
from prep.manifest import MANIFEST

OURS = "ours"
AGAIN = "ours, measured again"
_PREPARED = "prepared"
Peers = Literal["none", "quick", "all"]


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A loader by name: its adapter in benchmarks/peers, the environment it needs ("" is this one), its options."""

    name: str
    adapter: str
    kind: Kind = "peer"
    """limit: bare decoding; ours; or peer."""
    environment: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    writes: bool = False
    """Whether it reads a format of its own, which must be written first."""
    threads: int = 0
    """Threads or worker processes; 0 means as many as all others."""
    pixels: bool = False
    """Whether it reads pixels that were decoded before."""
    quick: bool = False
    """Whether it takes part in a run of a minute."""

    def files(self, job: Job) -> list[str]:
        """What it reads where it has no format of its own."""
        return job.files()[0] if self.adapter in ("torch_loader", "spdl_loader") else job.tars()

    def python(self) -> str:
        """The interpreter of its environment. Raises UserError, with what went wrong there, where that is not there."""
        if not self.environment:
            return sys.executable
        found = ROOT / ".peers" / self.environment / "bin" / "python"
        if not found.is_file():
            log = found.parents[2] / f"{self.environment}.log"
            lines = [line for line in log.read_text().splitlines() if line.strip()] if log.is_file() else []
            why = f"its installation failed: {lines[-1]}" if lines else "it is not installed"
            raise UserError(f"{why} (benchmarks/peers/install.sh {self.environment})")
        return str(found)


PEERS = (
    Contender(name="torch DataLoader, Pillow", adapter="torch_loader", options={"variant": "pillow"}, quick=True),
    Contender(name="torch DataLoader, simplejpeg", adapter="torch_loader", options={"variant": "opencv"}, quick=True),
    Contender(name="torch DataLoader, albumentations", adapter="torch_loader", options={"variant": "albumentations"}),
    Contender(name="webdataset, Pillow", adapter="webdataset_loader", options={"variant": "pillow"}),
    Contender(
        name="webdataset, simplejpeg", adapter="webdataset_loader", options={"variant": "simplejpeg"}, quick=True
    ),
    Contender(name="DALI, its own reader", adapter="dali_reader"),
    Contender(name="FFCV, JPEG", adapter="ffcv_loader", environment="ffcv", options={"variant": "jpg"}, writes=True),
    Contender(
        name="FFCV, raw",
        adapter="ffcv_loader",
        environment="ffcv",
        options={"variant": "raw"},
        writes=True,
        pixels=True,
    ),
    Contender(name="litdata", adapter="litdata_loader", environment="litdata", writes=True),
    Contender(name="mosaicml-streaming", adapter="mosaicml_loader", environment="mosaicml", writes=True),
    Contender(name="SPDL", adapter="spdl_loader", environment="spdl"),
)  # fmt: skip


def ours(device: str, peers: Peers) -> list[Contender]:
    """Our default on this machine, twice, and with all peers our other placements and tiers too."""
    import torch

    from configs.schema import LoaderConfig

    place = chosen_placement(LoaderConfig(), torch.device(device))[0]
    default = {"placement": place}
    found = [Contender(name=name, adapter="ours", kind="ours", options=default) for name in (OURS, AGAIN)]
    others: dict[str, dict[str, Any]] = {"dali-cpu": {"placement": "dali-cpu"}}
    if place == "dali-gpu":
        others = {
            "decode on the CPU": {"placement": "dali-gpu", "decode": "cpu"},
            "host": {"placement": "host"},
            "pixels kept on the GPU": {"placement": "dali-gpu", "cache": "gpu"},
        }
    others["pixels kept in RAM"] = {**default, "cache": "ram"}
    return found + [
        Contender(name=f"ours, {name}", adapter="ours", kind="ours", options=options, pixels="cache" in options)
        for name, options in others.items()
        if peers == "all"
    ]


@dataclass(frozen=True, kw_only=True)
class Ground:
    """What all contenders are measured on: the set, the same images as files, and room for other formats."""

    shards: Path
    work: Path
    size: int
    device: str
    batch_size: int
    threads: int

    def job(self, one: Contender, workload: str, **changes: Any) -> Job:
        """The job of a contender."""
        folder = self.work / hashlib.sha256(json.dumps([one.adapter, one.options]).encode()).hexdigest()[:12]
        settings = {
            "shards": str(self.shards.resolve()),
            "data": str((self.work / "data").resolve()),
            "folder": str(folder.resolve()),
            "workload": workload,
            "batch_size": self.batch_size,
            "threads": self.threads,
            "size": self.size,
            "device": self.device,
            "options": one.options,
        }
        return Job(**{**settings, **changes})

    def prepare(self, one: Contender) -> float:
        """Write what it reads, once; returns its MiB on disk. Raises UserError where that fails."""
        job, python = self.job(one, WORKLOADS[0]), one.python()
        if one.writes and not (job.own / _PREPARED).is_file():
            shutil.rmtree(job.own, ignore_errors=True)  # what was cut off in an earlier run
            words = [python, "-m", "benchmarks.peers.worker", one.adapter, json.dumps(asdict(job)), "prepare"]
            done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
            if done.returncode:
                raise UserError(([*done.stderr.splitlines()] or ["it ended without a word"])[-1])
            (job.own / _PREPARED).touch()
        files = job.own.rglob("*") if one.writes else (Path(path) for path in one.files(job))
        return round(sum(path.stat().st_size for path in files if path.is_file()) / 2**20, 1)


def ground(shards: Path, work: Path, **settings: Any) -> Ground:
    """The ground of a shard set: other formats lie under a name of the set's own, so that none outlives its set."""
    digest = hashlib.sha256((shards / MANIFEST).read_bytes()).hexdigest()[:12]
    own = work / digest
    export(shards, own / "data")
    return Ground(shards=shards, work=own, **settings)
