"""Where does the time of training go, and would another loader be faster? Measured side by side, on this machine.

    python -m benchmarks.throughput --shards shards/isic --backbone efficientnet_b1
    python -m benchmarks.throughput --shards shards/isic --peers all --workloads both --rounds 5 --scaling
    python -m benchmarks.throughput --shards shards/isic --peers off --trace trace.json.gz

First the training step, fed in four ways, and what bounds the run; then the loaders, each in a process of its own.
Everything takes turns, and our default is measured twice: differences smaller than its own are ties.
"""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmarks import limits, trainer, training
from benchmarks.comparison import compared, setup
from benchmarks.peers.job import WORKLOADS
from benchmarks.record import Record, write
from benchmarks.results import throughput
from benchmarks.scaling import Sizes, sweeps
from benchmarks.trace import trace
from configs.cli import parse, run_command, with_recipe
from configs.errors import UserError, check
from configs.machine import usable_cores
from configs.schema import Device, LoaderConfig, SpeedConfig, TrainConfig
from engine.distributed import Ranks, joined_ranks
from engine.precision import chosen_dtype
from engine.run import open_run
from engine.tune import tune
from loaders.shards import ShardSet


@dataclass(frozen=True, kw_only=True)
class ThroughputConfig:
    """What `python -m benchmarks.throughput` is asked for."""

    shards: str = "shards/isic"
    """Folder of the shard set to read."""
    backbone: str = "efficientnet_b1"
    """As train.py has it, with its recipe, from random weights."""
    training: bool = True
    """Whether to measure the training step and what feeds it."""
    peers: Literal["off", "quick", "all"] = "quick"
    """Loaders to measure: off, none; quick, bare decoding, our default and three common peers; all, every peer, and
    every placement and tier of ours: they take turns, and together hold many gigabytes of memory."""
    workloads: Literal["full", "flips", "both"] = "full"
    """What the loaders do: the whole augmentation, flips alone, or both."""
    scaling: bool = False
    """Whether to measure how our stream grows with threads, ranks, batch and samples: some minutes."""
    plain: bool = False
    """Whether to time the plain trainer (benchmarks/peers/plain_torch.py) too."""
    autotune: bool = False
    """Let train.py's --autotune find the fastest layout, compilation and placement first."""
    trace: str | None = None
    """File for a trace of 20 training steps, for ui.perfetto.dev."""
    batch_size: int = 0
    """Samples of a training step; 0 takes the recipe's."""
    loader_batch_size: int = 128
    """Samples of a batch when loaders are compared (1 or more)."""
    rounds: int = 3
    """Turns of everything that is compared (1 or more)."""
    seconds: float = 0.7
    """What is timed of each turn, after its warm-up (above 0)."""
    device: Device = "auto"
    """auto takes the GPU where there is one."""
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    """How the training step is fed."""
    speed: SpeedConfig = field(default_factory=SpeedConfig)
    """How the training step is run."""
    work: str = "runs/throughput"
    """Folder for what peers read: the JPEGs as files, and their own formats; may be deleted afterwards."""
    out: str = "benchmarks/results/throughput.json"
    """Where the record is written."""

    def __post_init__(self) -> None:
        for name in ("rounds", "loader_batch_size"):
            check(getattr(self, name) >= 1, name, getattr(self, name), "give 1 or more")
        check(self.batch_size >= 0, "batch_size", self.batch_size, "give 0 (the recipe's) or more")
        check(self.seconds > 0, "seconds", self.seconds, "give more than 0")


def main(argv: Sequence[str]) -> None:
    """Parse, measure, record, print."""
    description = (__doc__ or "").split("\n")[0]
    config = parse(ThroughputConfig, argv, prog="python -m benchmarks.throughput", description=description)
    begin, shards = time.perf_counter(), ShardSet(Path(config.shards))
    rows = np.flatnonzero(shards.fold >= 0)
    hidden = ("shards", "out", "work", "trace")
    found: Record = {
        "config": {name: value for name, value in asdict(config).items() if name not in hidden},
        "images": len(rows),
        "size": shards.size,
        "mean_jpeg_bytes": round(np.mean([len(jpeg) for jpeg in shards.jpegs(rows[:: max(1, len(rows) // 1000)])])),
        "failed": "",  # why loaders or scaling, though asked for, are missing
    }
    with joined_ranks(config.device) as ranks:
        if config.training or config.trace:
            _measure_training(config, ranks, found)
            training.free_gpu_memory()  # for what is measured next, in other processes
    try:
        _measure_loaders(config, shards.size, ranks.device.type, found)
    except UserError as error:
        found["failed"] = str(error)
    found["seconds"] = round(time.perf_counter() - begin, 1)
    print("\n".join(throughput(write(Path(config.out), found))))
    if found["failed"]:
        raise UserError(f"{found['failed']}; what was measured before is kept in {config.out}")


def _measure_training(config: ThroughputConfig, ranks: Ranks, found: Record) -> None:
    """Put limits and training into `found`, as far as they are asked for; and write the trace."""
    with tempfile.TemporaryDirectory() as folder:
        words = with_recipe([f"--backbone={config.backbone}", f"--shards={config.shards}"], config.backbone)
        words += [f"--device={config.device}", f"--out={folder}", "--weights=none", "--log-every=0", "--resume=never"]
        words += ["--epochs=1000"]  # more than any measurement takes: the schedule must not end
        words += [f"--batch-size={config.batch_size}"] if config.batch_size else []
        recipe = parse(TrainConfig, words, prog="train.py", description="")
        recipe = replace(recipe, speed=config.speed, loader=config.loader)
        if config.autotune:
            tune(recipe, ranks)
        if config.training:
            say("measuring the machine's limits")
            found["limits"] = limits.limits(ranks.device, chosen_dtype(recipe.precision, ranks.device))
            training.free_gpu_memory()
            say(f"measuring the training step of {config.backbone}")
            with open_run(recipe, ranks) as run:
                reached, rounds, seconds = found["limits"], config.rounds, config.seconds
                found["training"] = training.measured(run, reached, rounds=rounds, seconds=seconds)
        if config.trace:
            say(f"tracing steps of {config.backbone}")
            with open_run(recipe, ranks) as run:  # another one: what profiles may slow what is measured
                trace(run, Path(config.trace))
            print(f"trace: {config.trace} (open it in https://ui.perfetto.dev)")
        if config.training and config.plain:
            say("timing the plain trainer")
            training.free_gpu_memory()
            found["training"] |= trainer.plain_speed(recipe, Path(folder), ranks.device)


def _measure_loaders(config: ThroughputConfig, size: int, device: str, found: Record) -> None:
    """Put loaders, noise and scaling into `found`, as far as they are asked for. Raises UserError where ours fails."""
    if config.peers == "off" and not config.scaling:
        return
    say(f"preparing what peers read in {config.work}")
    threads = config.loader.threads or usable_cores()
    settings = {"size": size, "device": device, "batch_size": config.loader_batch_size, "threads": threads}
    place = setup(Path(config.shards), Path(config.work), **settings)
    turns: dict[str, Any] = {"rounds": config.rounds, "seconds": config.seconds, "say": say}
    if config.peers != "off":
        workloads = WORKLOADS if config.workloads == "both" else (config.workloads,)
        found["loaders"], found["noise"] = compared(place, peers=config.peers, workloads=workloads, **turns)
    if config.scaling:
        found["scaling"] = sweeps(place, Sizes.up_to(threads), **turns)


def say(line: str) -> None:
    """Tell a waiting person what is going on."""
    print(f"... {line}", flush=True)


if __name__ == "__main__":
    run_command(main)
