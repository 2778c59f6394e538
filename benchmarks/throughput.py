"""Where does the time of training go, and would another loader be faster? Measured side by side, on this machine.

    python -m benchmarks.throughput --shards shards/isic --backbone efficientnet_b1
    python -m benchmarks.throughput --shards shards/isic --peers all --workloads both --rounds 5 --scaling
    python -m benchmarks.throughput --shards shards/isic --peers off --trace trace.json.gz

First the step of a backbone, fed in four ways, and a verdict: what bounds this run and which setting to change. Then
the loaders, ours and the peers', each in a process of its own, as multiples of bare libjpeg-turbo decoding and of ours.
Everything takes turns, and our default is measured twice: differences smaller than its own are ties.
"""

import resource
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from configs.cli import parse, run_command
from configs.errors import UserError, check
from configs.machine import usable_cores
from configs.schema import Device, LoaderConfig, SpeedConfig

if TYPE_CHECKING:  # --help should not wait for torch
    from benchmarks.record import Limits, LoaderFigures, Record, TrainingFigures

_MODELS = ("efficientnet_b1", "efficientnet_b3", "efficientnet_b4", "resnest50")


@dataclass(frozen=True, kw_only=True)
class ThroughputConfig:
    """What `python -m benchmarks.throughput` is asked for."""

    shards: str = "shards/isic"
    """Folder of the shard set to read."""
    backbone: str = "efficientnet_b1"
    """As train.py has it, with its recipe, from random weights."""
    training: bool = True
    """Whether to measure the training step and what feeds it."""
    peers: Literal["off", "none", "quick", "all"] = "quick"
    """Loaders to measure: off, none at all; none, our default and bare decoding; quick, three common peers too; all,
    every peer, and every placement and tier of ours: they take turns, and together hold many gigabytes of memory."""
    workloads: Literal["full", "flips", "both"] = "full"
    """What the loaders do: the whole augmentation, flips alone, or both."""
    scaling: bool = False
    """Whether to measure how our stream grows with threads, ranks, batch, image size and samples: some minutes."""
    plain: bool = False
    """Whether to time the plain trainer (benchmarks/peers/plain_torch.py) too."""
    plain_images: int = 20_000
    """Training images that the plain trainer sees in an epoch, at most (1 or more)."""
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
        for name in ("rounds", "plain_images", "loader_batch_size"):
            check(getattr(self, name) >= 1, name, getattr(self, name), "give 1 or more")
        check(self.batch_size >= 0, "batch_size", self.batch_size, "give 0 (the recipe's) or more")
        check(self.seconds > 0, "seconds", self.seconds, "give more than 0")


def main(argv: Sequence[str]) -> None:
    """Parse, measure, print, record."""
    description = (__doc__ or "").split("\n")[0]
    config = parse(ThroughputConfig, argv, prog="python -m benchmarks.throughput", description=description)
    from benchmarks.record import write

    found = record(config)
    show(found)
    write(found, Path(config.out))
    if found.failed:
        raise UserError(f"{found.failed}; what was measured before is kept in {config.out}")


def record(config: ThroughputConfig) -> "Record":
    """All that was asked for, in an order in which nothing runs beside what is measured."""
    import numpy as np

    from benchmarks.costs import costs
    from benchmarks.environment import environment
    from benchmarks.record import Record
    from benchmarks.training import free_gpu_memory
    from benchmarks.work import model_work
    from engine.distributed import joined_ranks
    from loaders.shards import ShardSet

    begin, shards = time.perf_counter(), ShardSet(Path(config.shards))
    rows = np.flatnonzero(shards.fold >= 0)
    lengths = [len(jpeg) for jpeg in shards.jpegs(rows[:: max(1, len(rows) // 1000)])]
    parts: dict[str, Any] = {}
    with joined_ranks(config.device) as ranks:
        if config.training or config.trace:
            parts |= _training(config, shards, ranks)
            free_gpu_memory()  # for what is measured next, in other processes
        if config.training:
            parts["models"] = [model_work(name, shards.size) for name in _MODELS]
        device = ranks.device
    try:
        _measure_loaders(config, shards.size, device.type, parts)
    except UserError as error:
        parts["failed"] = str(error)
    hidden = ("shards", "out", "work", "trace")
    return Record(
        **{**environment(), "cores": usable_cores()},
        config={name: value for name, value in asdict(config).items() if name not in hidden},
        images=len(rows),
        size=shards.size,
        mean_jpeg_bytes=round(float(np.mean(lengths))),
        costs=costs(config.loader_batch_size, device),
        **parts,
        seconds=round(time.perf_counter() - begin, 1),
        peak_host_mib=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    )


def _measure_loaders(config: ThroughputConfig, size: int, device: str, parts: dict[str, Any]) -> None:
    """Put loaders, noise and scaling into `parts`, as far as they are asked for. Raises UserError where ours fails."""
    from benchmarks.comparison import compared, thread_steps
    from benchmarks.contenders import ground
    from benchmarks.peers.job import WORKLOADS
    from benchmarks.scaling import Sizes, sweeps

    if config.peers == "off" and not config.scaling:
        return
    say(f"preparing what peers read in {config.work}")
    threads = config.loader.threads or usable_cores()
    settings = {"size": size, "device": device, "batch_size": config.loader_batch_size, "threads": threads}
    place = ground(Path(config.shards), Path(config.work), **settings)
    turns: dict[str, Any] = {"rounds": config.rounds, "seconds": config.seconds, "say": say}
    if config.peers != "off":
        workloads = WORKLOADS if config.workloads == "both" else (config.workloads,)
        parts["loaders"], parts["noise"] = compared(place, peers=config.peers, workloads=workloads, **turns)
    if config.scaling:
        steps = thread_steps(2 * threads)
        sizes = Sizes(threads=steps, ranks=[one for one in steps if one <= threads])
        parts["scaling"] = sweeps(place, sizes, **turns)


def _training(config: ThroughputConfig, shards: Any, ranks: Any) -> dict[str, Any]:
    """limits and training of the record, as far as they are asked for; and the trace."""
    from benchmarks.trace import trace
    from benchmarks.training import train_config
    from engine.tune import tune

    parts: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        words = [f"--shards={config.shards}", f"--device={config.device}"]
        words += [f"--batch-size={config.batch_size}"] if config.batch_size else []
        trained = train_config(words, config.backbone, Path(folder))
        trained = replace(trained, speed=config.speed, loader=config.loader)
        if config.autotune:
            tune(trained, ranks)
        if config.training:
            parts["limits"], parts["training"] = _measured(config, trained, shards, ranks)
        if config.trace:
            say(f"tracing steps of {config.backbone}")
            trace(trained, ranks, Path(config.trace))
            print(f"trace: {config.trace} (open it in https://ui.perfetto.dev)")
        if config.training and config.plain:
            say("timing the plain trainer")
            parts["training"] = _beside_plain(parts["training"], config, trained, Path(folder), ranks)
    return parts


def _measured(config: ThroughputConfig, trained: Any, shards: Any, ranks: Any) -> "tuple[Limits, TrainingFigures]":
    from benchmarks.comparison import thread_steps
    from benchmarks.limits import limits
    from benchmarks.training import free_gpu_memory, measured
    from engine.session import open_session
    from engine.step import chosen_dtype

    say("measuring the machine's limits")
    dtype = chosen_dtype(trained.precision, ranks.device)
    found, reach = limits(shards, ranks.device, dtype, thread_steps(usable_cores()))
    free_gpu_memory()
    with open_session(trained, ranks) as session:
        say(f"measuring the training step of {config.backbone}")
        return found, measured(session, ranks, reach, rounds=config.rounds, seconds=config.seconds)


def _beside_plain(
    figures: "TrainingFigures", config: ThroughputConfig, trained: Any, folder: Path, ranks: Any
) -> "TrainingFigures":
    from benchmarks.training import free_gpu_memory, plain

    free_gpu_memory()
    layout = bool(figures.speed["channels_last"])
    try:
        speed = plain(trained, folder, ranks.device, channels_last=layout, epochs=2, images=config.plain_images)
    except UserError as error:
        return replace(figures, plain_failed=str(error))
    return replace(figures, plain_images_per_s=speed)


def say(line: str) -> None:
    """Tell a waiting person what is going on."""
    print(f"... {line}", flush=True)


def show(found: "Record") -> None:
    """The verdict, then the table of loaders."""
    if found.training is not None:
        for name, rate in found.training.images_per_s.items():
            print(f"{name:10} {rate.words(int(rate.median < 100))} img/s")
        one = found.training
        print(f"saturation (real / replayed) {one.saturation.words(3)}; contention (replayed / resident) ", end="")
        print(f"{one.contention.words(3)}; utilisation {one.utilisation.words(3)}; control {one.noise:.3f}")
        if one.plain_images_per_s or one.plain_failed:
            speed = f"{one.plain_images_per_s:,.0f} img/s" if one.plain_images_per_s else one.plain_failed
            print(f"the plain trainer's last epoch: {speed}")
        print(one.verdict)
    if found.noise:
        ties = ", ".join(f"{workload} {control:.0%}" for workload, control in found.noise.items())
        print(f"loaders, median (range) of {found.config['rounds']} rounds; smaller differences are ties: {ties}")
    for loader in sorted(found.loaders, key=lambda loader: (loader.workload, -_median(loader))):
        print(f"{loader.workload:6} {loader.name:46} {_figures(loader)}")
    for sweep in found.scaling:
        print(f"{sweep.name}: {sweep.meaning}")


def _median(loader: "LoaderFigures") -> float:
    return loader.images_per_s.median if loader.images_per_s else 0.0


def _figures(loader: "LoaderFigures") -> str:
    if loader.images_per_s is None or loader.of_limit is None:
        return f"no figures: {loader.failed}"
    beside = "" if loader.of_ours is None else f"  {loader.of_ours.median:5.2f} of ours{' (tie)' if loader.tie else ''}"
    return f"{loader.images_per_s.words():>26} img/s  {loader.of_limit.median:5.2f} of bare decoding{beside}"


if __name__ == "__main__":
    run_command(main)
