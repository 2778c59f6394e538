"""Who is measured: bare decoding, our placements and tiers, every peer; and where each one's environment lies."""

import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from benchmarks.peers.job import WORKLOADS, Job
from benchmarks.record import ROOT, Kind
from benchmarks.trainer import export
from configs.errors import UserError
from configs.schema import LoaderConfig
from loaders.placement import chosen_placement
from prep.manifest import MANIFEST

OURS = "ours"
AGAIN = "ours, measured again"
Peers = Literal["quick", "all"]


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A loader: its adapter in benchmarks/peers, the environment it needs ("" is this one), its options.

    writes: whether it reads a format of its own, which must be written first; pixels: whether it reads pixels that were
    decoded before; quick: whether it takes part in a run of a minute.
    """

    name: str
    adapter: str
    kind: Kind = "peer"
    environment: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    writes: bool = False
    pixels: bool = False
    quick: bool = False

    def python(self) -> str:
        """The interpreter of its environment. Raises UserError, with what went wrong there, where that is missing."""
        if not self.environment:
            return sys.executable
        found = ROOT / ".peers" / self.environment / "bin" / "python"
        if not found.is_file():
            log = ROOT / ".peers" / f"{self.environment}.log"
            lines = log.read_text().split("\n") if log.is_file() else []
            why = f"its installation failed: {_last(lines)}" if _last(lines) else "it is not installed"
            raise UserError(f"{why} (benchmarks/peers/install.sh {self.environment})")
        return str(found)


def _variant(name: str, adapter: str, variant: str, **settings: Any) -> Contender:
    return Contender(name=name, adapter=adapter, options={"variant": variant}, **settings)


LIMIT = Contender(name="libjpeg-turbo alone", adapter="turbojpeg", kind="limit")
PEERS = (
    _variant("torch DataLoader, Pillow", "torch_loader", "pillow", quick=True),
    _variant("torch DataLoader, simplejpeg", "torch_loader", "opencv", quick=True),
    _variant("torch DataLoader, albumentations", "torch_loader", "albumentations"),
    _variant("webdataset, Pillow", "webdataset_loader", "pillow"),
    _variant("webdataset, simplejpeg", "webdataset_loader", "simplejpeg", quick=True),
    Contender(name="DALI, its own reader", adapter="dali_reader"),
    _variant("FFCV, JPEG", "ffcv_loader", "jpg", environment="ffcv", writes=True),
    _variant("FFCV, raw", "ffcv_loader", "raw", environment="ffcv", writes=True, pixels=True),
    Contender(name="litdata", adapter="litdata_loader", environment="litdata", writes=True),
    Contender(name="mosaicml-streaming", adapter="mosaicml_loader", environment="mosaicml", writes=True),
    Contender(name="SPDL", adapter="spdl_loader", environment="spdl"),
)


def ours(device: str, peers: Peers) -> list[Contender]:
    """Our default on this machine, twice, and with all peers our other placements and tiers too."""
    place = chosen_placement(LoaderConfig(), torch.device(device))[0]
    default: dict[str, Any] = {"placement": place}
    found = {OURS: default, AGAIN: default}
    if peers == "all" and place == "dali-gpu":
        found["ours, decode on the CPU"] = {"placement": "dali-gpu", "decode": "cpu"}
        found["ours, host"] = {"placement": "host"}
        found["ours, pixels kept on the GPU"] = {"placement": "dali-gpu", "cache": "gpu"}
    elif peers == "all":
        found["ours, dali-cpu"] = {"placement": "dali-cpu"}
    if peers == "all":
        found["ours, pixels kept in RAM"] = {**default, "cache": "ram"}
    return [
        Contender(name=name, adapter="ours", kind="ours", options=options, pixels="cache" in options)
        for name, options in found.items()
    ]


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What all loaders are measured on: the set, the same images as files, and a folder for other formats."""

    shards: Path
    work: Path
    size: int
    device: str
    batch_size: int
    threads: int

    def job(self, contender: Contender, workload: str) -> Job:
        """The job of a contender."""
        words = json.dumps([contender.adapter, contender.options])
        return Job(
            shards=str(self.shards.resolve()),
            data=str((self.work / "data").resolve()),
            folder=str((self.work / hashlib.sha256(words.encode()).hexdigest()[:12]).resolve()),
            workload=workload,
            batch_size=self.batch_size,
            threads=self.threads,
            size=self.size,
            device=self.device,
            options=contender.options,
        )

    def prepare(self, contender: Contender) -> float:
        """Write what it reads, once; returns its MiB on disk. Raises UserError where that fails."""
        job, python = self.job(contender, WORKLOADS[0]), contender.python()
        done = job.own / "prepared"
        if contender.writes and not done.is_file():
            shutil.rmtree(job.own, ignore_errors=True)  # what was cut off in an earlier run
            words = [python, "-m", "benchmarks.peers.worker", contender.adapter, json.dumps(asdict(job)), "prepare"]
            finished = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
            if finished.returncode:
                raise UserError(_last(finished.stderr.split("\n")) or "it ended without a word")
            done.touch()
        files = job.own.rglob("*") if contender.writes else map(Path, job.tars())
        if contender.adapter in ("torch_loader", "spdl_loader"):
            files = map(Path, job.files()[0])
        return round(sum(path.stat().st_size for path in files if path.is_file()) / 2**20, 1)


def setup(shards: Path, work: Path, **settings: Any) -> Setup:
    """That of a shard set: other formats lie under a name of the set's own, so that none outlives its set."""
    own = work / hashlib.sha256((shards / MANIFEST).read_bytes()).hexdigest()[:12]
    export(shards, own / "data")
    return Setup(shards=shards, work=own, **settings)


def _last(lines: list[str]) -> str:
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
