"""Does the training step ever wait for data? One backbone on real batches, on replayed ones and on a resident one.

    python -m benchmarks.saturation --shards shards/isic --backbone efficientnet_b1 --plain true

real: the trainer's own loop. replayed: the same step on batches of it that already lie on the device, what a loader
without any cost would give. resident: one batch of random pixels again and again, the step alone. The three take turns;
ratios are medians of the rounds' ratios. plain: benchmarks/peers/plain_torch.py on the same JPEGs, with bf16 autocast
and channels_last on a GPU, its last epoch.
"""

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import cycle, islice, repeat
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.environment import environment, write_record
from benchmarks.trainer import export
from configs.cli import parse, run_command, with_recipe
from configs.errors import UserError, check
from configs.schema import Device, SpeedConfig, TrainConfig
from engine.distributed import Ranks, joined_ranks
from engine.session import Session, open_session
from engine.tune import tune
from loaders.stream import TENSORS, Batch

_EPOCHS = 1000  # more than any measurement takes: the schedule must not end


@dataclass(frozen=True, kw_only=True)
class SaturationConfig:
    """What `python -m benchmarks.saturation` is asked for."""

    shards: str = "shards/isic"
    """Folder of the shard set."""
    backbone: str = "efficientnet_b1"
    """As train.py has it, with its recipe."""
    batch_size: int = 0
    """Samples of a step; 0 takes the recipe's."""
    steps: int = 50
    """Steps of each measurement."""
    rounds: int = 5
    """Measurements of each kind."""
    replayed: int = 8
    """Batches that are kept and replayed."""
    autotune: bool = False
    """Let train.py's --autotune find the fastest layout, compilation and placement first."""
    plain: bool = False
    """Also time the plain trainer."""
    plain_images: int = 20000
    """Training images that the plain trainer sees in an epoch, at most."""
    device: Device = "auto"
    """auto takes the GPU where there is one."""
    speed: SpeedConfig = field(default_factory=SpeedConfig)
    """How the training step is run."""
    out: str = "saturation.json"
    """Where the record is written."""

    def __post_init__(self) -> None:
        for name in ("steps", "rounds", "replayed", "plain_images"):
            check(getattr(self, name) >= 1, name, getattr(self, name), "give 1 or more")


def main(argv: Sequence[str]) -> None:
    """Measure, print, record."""
    description = (__doc__ or "").split("\n")[0]
    config = parse(SaturationConfig, argv, prog="python -m benchmarks.saturation", description=description)
    with tempfile.TemporaryDirectory() as folder:
        trained = train_config(config, Path(folder))
        with joined_ranks(trained.device) as ranks:
            if config.autotune:
                tune(trained, ranks)
            with open_session(trained, ranks) as session:
                figures, run = measured(config, session, ranks)
        if config.plain:
            figures["plain"] = plain(config, Path(folder), trained)
    record = {
        "what": "images/s of training: real data, replayed batches, one resident batch; and of the plain trainer",
        **environment(),
        "config": {name: value for name, value in asdict(config).items() if name not in ("shards", "out")},
        **run,
        "images_per_s": figures,
    }
    for name, figure in figures.items():
        print(f"{name:10} {figure['median']:9,.0f} img/s ({figure['low']:,.0f} to {figure['high']:,.0f})")
    print(f"saturation (real / replayed) {run['saturation']:.3f}; contention (replayed / resident) ", end="")
    print(f"{run['contention']:.3f}")
    write_record(Path(config.out), record)


def train_config(config: SaturationConfig, out: Path) -> TrainConfig:
    """The recipe of the backbone, from random weights, for as long as the measurement takes."""
    words = with_recipe([f"--backbone={config.backbone}", f"--shards={config.shards}", f"--out={out}"], config.backbone)
    words += ["--weights=none", f"--epochs={_EPOCHS}", f"--device={config.device}", "--log-every=0"]
    words += [f"--batch-size={config.batch_size}"] if config.batch_size else []
    return replace(parse(TrainConfig, words, prog="train.py", description=""), speed=config.speed)


def measured(config: SaturationConfig, session: Session, ranks: Ranks) -> tuple[dict[str, Any], dict[str, Any]]:
    """Images/s of each kind over the rounds, and the ratios and settings of the run."""
    session.model.train()
    real = endless(session)
    kept = [_copied(batch) for batch in islice(real, config.replayed)]
    shuffled = replace(kept[0], image=torch.randint_like(kept[0].image, 256))
    streams: dict[str, Iterable[Batch]] = {"real": real, "replayed": cycle(kept), "resident": repeat(shuffled)}
    for stream in streams.values():
        _timed(session, islice(stream, 3), ranks)
    rounds: dict[str, list[float]] = {name: [] for name in streams}
    names = list(streams)
    for number in range(config.rounds):
        for name in names[number % 3 :] + names[: number % 3]:  # another one first in each round
            rounds[name].append(_timed(session, islice(streams[name], config.steps), ranks))
    ratios = [one / other for one, other in zip(rounds["real"], rounds["replayed"], strict=True)]
    contention = [one / other for one, other in zip(rounds["replayed"], rounds["resident"], strict=True)]
    facts = {
        "size": session.shards.size,
        "batch_size": session.config.batch_size,
        "placement": session.loader.placement,
        "speed": session.speed_facts,
        "saturation": round(median(ratios), 4),
        "saturation_range": [round(min(ratios), 4), round(max(ratios), 4)],
        "contention": round(median(contention), 4),
    }
    if ranks.device.type == "cuda":
        facts["peak_gpu_gib"] = round(torch.cuda.max_memory_reserved() / 2**30, 2)
    return {name: _figure(values) for name, values in rounds.items()}, facts


def endless(session: Session) -> Iterator[Batch]:
    """The training stream, epoch after epoch."""
    while True:
        yield from session.train_epoch_batches()
        session.epoch, session.step = session.epoch + 1, 0


def plain(config: SaturationConfig, folder: Path, trained: TrainConfig) -> dict[str, float]:
    """Images/s of the plain trainer's last epoch."""
    from models.backbones import SHORT_NAMES

    data = folder / "plain"
    export(Path(config.shards), data, most=config.plain_images)
    words = ["-m", "benchmarks.peers.plain_torch", "--data", str(data), "--out", str(folder / "plain.csv")]
    words += ["--backbone", SHORT_NAMES.get(config.backbone, config.backbone), "--epochs", "2"]
    words += ["--batch-size", str(trained.batch_size), "--lr", "1e-4"]
    if torch.cuda.is_available():
        words += ["--amp", "--channels-last", "--workers", "16"]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    speeds = [float(word) for word in re.findall(r"([\d.]+) img/s", done.stdout)]
    if done.returncode or not speeds:
        raise UserError(f"the plain trainer failed: {done.stderr[-500:]}")
    return _figure(speeds[-1:])


def _timed(session: Session, stream: Iterator[Batch], ranks: Ranks) -> float:
    """Images/s of the trainer's hot step over `stream`, from one idle device to the next."""
    _wait(ranks)
    start, images = time.perf_counter(), 0
    for batch in stream:
        session.begin_step()
        session.gradients(batch)
        session.apply_gradients()
        images += len(batch.index)
    _wait(ranks)
    return images / (time.perf_counter() - start)


def _copied(batch: Batch) -> Batch:
    """A batch of its own memory: the stream's may be written again."""
    return replace(batch, **{name: getattr(batch, name).clone() for name in TENSORS})


def _figure(values: Sequence[float]) -> dict[str, float]:
    return {"median": round(median(values), 1), "low": round(min(values), 1), "high": round(max(values), 1)}


def _wait(ranks: Ranks) -> None:
    if ranks.device.type == "cuda":
        torch.cuda.synchronize(ranks.device)


if __name__ == "__main__":
    run_command(main)
