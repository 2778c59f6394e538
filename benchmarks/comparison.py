"""The loaders side by side: every one in turn, each workload, as multiples of bare decoding and of ours."""

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch

from benchmarks.peers.job import Job
from benchmarks.process import LoaderProcess, Round
from benchmarks.record import ROOT, Record
from benchmarks.rounds import in_turns, is_tie, noise, ratios, spread
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
    decoded before; quick: whether it takes part in a run of a minute; cuda: whether it needs a GPU.
    """

    name: str
    adapter: str
    options: dict[str, Any] = field(default_factory=dict)
    environment: str = ""
    kind: Literal["limit", "ours", "peer"] = "peer"
    writes: bool = False
    pixels: bool = False
    quick: bool = False
    cuda: bool = False

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
        """Write its own format, once; returns the MiB on disk, None without one. Raises UserError where that fails, and
        where it needs a GPU and there is none."""
        if self.cuda and common.device != "cuda":
            raise UserError("it decodes on a GPU, and there is none")
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
    Contender("torchvision, nvJPEG", "gpu_decoders", {"variant": "torchvision"}, cuda=True),
    Contender("torchcodec, nvJPEG", "gpu_decoders", {"variant": "torchcodec"}, "torchcodec", cuda=True),
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


@dataclass
class Measurement:
    """A contender on one workload, and what its rounds gave; `failed` says why it takes no more of them."""

    contender: Contender
    workload: str
    failed: str = ""
    disk_mib: float | None = None
    process: LoaderProcess = field(init=False)
    rounds: list[Round] = field(default_factory=list)

    def start(self, common: Job, opened: ExitStack) -> None:
        """Write what it reads, and let its process import."""
        loader = self.contender
        self.disk_mib = loader.prepare(common)
        log, job = common.own / "logs" / f"{loader.name}, {self.workload}.log", loader.job(common, self.workload)
        self.process = LoaderProcess(loader.adapter, job, python=loader.python(), log=log)
        opened.enter_context(closing(self.process))

    def attempt(self, step: "Callable[[Measurement], object]") -> float:
        """Take a step unless one failed before; only what all others are compared with may not fail."""
        if not self.failed:
            try:
                step(self)
            except UserError as error:
                if self.contender.name in (LIMIT.name, OURS, AGAIN):
                    raise
                self.failed = str(error)
                if hasattr(self, "process"):  # it must not go on beside the others
                    self.process.close()
        return 0.0


def compared(
    common: Job, *, peers: Peers, workloads: tuple[str, ...], rounds: int, seconds: float, say: Callable[[str], None]
) -> tuple[list[Record], dict[str, float]]:
    """Figures of every contender on each workload, and each workload's A/A control.

    One workload after the other: memory must hold all that take turns. Raises UserError where ours fails.
    """
    figures: list[Record] = []
    controls: dict[str, float] = {}
    for workload in workloads:
        found = [Measurement(contender, workload) for contender in contenders(common.device, peers)]
        say(f"{workload}: {len(found)} loaders, {rounds} rounds")
        _measure(found, common, rounds, seconds)
        rates = {each.contender.name: [each_round["rate"] for each_round in each.rounds] for each in found}
        controls[workload] = noise(rates[OURS], rates[AGAIN])
        figures += [_figures(each, rates, controls[workload]) for each in found]
    return figures, controls


def _measure(found: list[Measurement], common: Job, rounds: int, seconds: float) -> None:
    with ExitStack() as opened:
        steps: tuple[Callable[[Measurement], object], ...] = (
            lambda each: each.start(common, opened),
            lambda each: each.process.imported(),  # imports share the cores, openings do not
            lambda each: each.process.open(),
            lambda each: each.process.run(0.0),  # pages, pools, and what was made while it waited
        )
        for step in steps:
            for each in found:
                each.attempt(step)
        turn: Callable[[Measurement], object] = lambda each: each.rounds.append(each.process.run(seconds))  # noqa: E731
        in_turns({each.contender.name: partial(each.attempt, turn) for each in found}, rounds)


def _figures(found: Measurement, rates: dict[str, list[float]], control: float) -> dict[str, Any]:
    """One loader of a record.

    kind: limit is bare decoding; contract: what its batches hold; of_limit, of_ours: multiples of bare decoding and of
    our default, in the same rounds; tie: with our default; pixels: whether it reads stored pixels and decodes nothing;
    epoch_wait_ms: median wait for an epoch's first batch; cpu_us: CPU time per image, and memory_mib: of all its
    processes; disk_mib: what it reads. Without figures where it failed.
    """
    contender, rounds = found.contender, found.rounds
    figures = {"name": contender.name, "kind": contender.kind, "workload": found.workload, "failed": found.failed}
    if found.failed:
        return figures
    own, ready = rates[contender.name], found.process.ready
    waits = [wait for each in rounds for wait in each["epoch_waits_s"]]
    return figures | {
        "pixels": contender.pixels,
        "contract": ready["contract"],
        "versions": ready["versions"],
        "images_per_s": spread(own),
        "of_limit": spread(ratios(own, rates[LIMIT.name])),
        "of_ours": spread(ratios(own, rates[OURS])),
        "tie": contender.name not in (OURS, LIMIT.name) and is_tie(own, rates[OURS], control),
        "first_batch_s": round(ready["first_batch_s"], 3),
        "epoch_wait_ms": round(median(waits) * 1e3, 1) if waits else None,
        "cpu_us": round(median(each["cpu_us"] for each in rounds), 1),
        "memory_mib": max(each["memory_mib"] for each in rounds),
        "disk_mib": found.disk_mib,
    }
