"""Who is measured: bare decoding, our placements and tiers, every peer; and where each one's environment is."""

import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch

from benchmarks.peers.job import Job
from benchmarks.record import ROOT
from benchmarks.trainer import export
from configs.errors import UserError
from configs.schema import LoaderConfig
from loaders.placement import available_placements, chosen_placement
from prep.manifest import MANIFEST

OURS, AGAIN = "ours", "ours, measured again"
Peers = Literal["quick", "all"]


@dataclass(frozen=True)
class Contender:
    """A loader: its adapter in benchmarks/peers, its options, and the environment it needs ("" is this one).

    writes: whether it reads a format of its own, which must be written first; pixels: whether it reads pixels that were
    decoded before; quick: whether it takes part in a run of a minute.
    """

    name: str
    adapter: str
    options: dict[str, Any] = field(default_factory=dict)
    environment: str = ""
    kind: Literal["limit", "ours", "peer"] = "peer"
    writes: bool = False
    pixels: bool = False
    quick: bool = False

    def python(self) -> str:
        """The interpreter of its environment. Raises UserError, with what went wrong there, where that is missing."""
        if not self.environment:
            return sys.executable
        found, log = ROOT / ".peers" / self.environment / "bin/python", ROOT / ".peers" / f"{self.environment}.log"
        if not found.is_file():
            why = f"its installation failed: {_last_line(log.read_text())}" if log.is_file() else "it is not installed"
            raise UserError(f"{why} (benchmarks/peers/install.sh {self.environment})")
        return str(found)

    def job(self, common: Job, workload: str) -> Job:
        """What its process is asked for."""
        name = hashlib.sha256(json.dumps([self.adapter, self.options]).encode()).hexdigest()[:12]
        return replace(common, folder=str(common.own / name), workload=workload, options=self.options)

    def prepare(self, common: Job) -> float | None:
        """Write its own format, once; returns the MiB on disk, None without one. Raises UserError where that fails."""
        job, python = self.job(common, "full"), self.python()
        done = job.own / "prepared"
        if not self.writes:
            return None
        if not done.is_file():
            shutil.rmtree(job.own, ignore_errors=True)  # what was cut off in an earlier run
            words = [python, "-m", "benchmarks.peers.worker", self.adapter, json.dumps(asdict(job)), "prepare"]
            finished = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
            if finished.returncode:
                raise UserError(_last_line(finished.stderr) or "it ended without a word")
            done.touch()
        return round(sum(path.stat().st_size for path in job.own.rglob("*") if path.is_file()) / 2**20, 1)


LIMIT = Contender("libjpeg-turbo alone", "turbojpeg", kind="limit")
PEERS = (
    Contender("torch DataLoader, Pillow", "torch_loader", {"variant": "pillow"}, quick=True),
    Contender("torch DataLoader, simplejpeg", "torch_loader", {"variant": "opencv"}, quick=True),
    Contender("torch DataLoader, albumentations", "torch_loader", {"variant": "albumentations"}),
    Contender("webdataset, Pillow", "webdataset_loader", {"variant": "pillow"}),
    Contender("webdataset, simplejpeg", "webdataset_loader", {"variant": "simplejpeg"}, quick=True),
    Contender("DALI, its own reader", "dali_reader"),
    Contender("FFCV, JPEG", "ffcv_loader", {"variant": "jpg"}, "ffcv", writes=True),
    Contender("FFCV, raw", "ffcv_loader", {"variant": "raw"}, "ffcv", writes=True, pixels=True),
    Contender("litdata", "litdata_loader", environment="litdata", writes=True),
    Contender("mosaicml-streaming", "mosaicml_loader", environment="mosaicml", writes=True),
    Contender("SPDL", "spdl_loader", environment="spdl"),
)


def contenders(device: str, peers: Peers) -> list[Contender]:
    """All that take turns."""
    return [LIMIT, *ours(device, peers), *(peer for peer in PEERS if peers == "all" or peer.quick)]


def ours(device: str, peers: Peers) -> list[Contender]:
    """Our default on this machine, twice, and with all peers our other placements and tiers too."""
    place = chosen_placement(LoaderConfig(), torch.device(device))[0]
    default: dict[str, Any] = {"placement": place}
    found = {OURS: default, AGAIN: default}
    if peers == "all":
        others = [other for other in available_placements(torch.device(device)) if other != place]
        found |= {f"ours, {other}": {"placement": other} for other in others}
        found["ours, pixels kept in RAM"] = {**default, "cache": "ram"}
    if peers == "all" and place == "dali-gpu":
        found["ours, decode on the CPU"] = {**default, "decode": "cpu"}
        found["ours, pixels kept on the GPU"] = {**default, "cache": "gpu"}
    return [Contender(name, "ours", words, kind="ours", pixels="cache" in words) for name, words in found.items()]


def setup(shards: Path, work: Path, **settings: Any) -> Job:
    """What all jobs have in common: the shard set, the same images as files, and a folder for everything else.

    Other formats are kept under a name of the set's own, so that none outlives its set.
    """
    own = (work / hashlib.sha256((shards / MANIFEST).read_bytes()).hexdigest()[:12]).resolve()
    export(shards, own / "data")
    return Job(shards=str(shards.resolve()), data=str(own / "data"), folder=str(own), **settings)


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2]
