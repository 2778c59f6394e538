"""What does training cost the host? The CPU time of the training thread per image, without the device's work.

    python -m benchmarks.host --shards shards/isic

bare: a loop over batches that adds up their losses, in plain torch. loop: that of train.py, over the same batches, with
a step that does everything but its work on the device: learning rate, seed, progress, records. One more for each
placement: the same loop, fed by the loader. They take turns.

Only the training thread's own CPU time counts, not what it waits for and not what other threads do. Where that fills
the time of a step, the GPU waits for Python.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import repeat
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.record import Record, write
from benchmarks.rounds import in_turns, ratios, spread
from configs.cli import parse, run_command
from configs.errors import check
from configs.schema import Device, LoaderConfig, TrainConfig
from engine.distributed import Ranks, joined_ranks
from engine.prepare_step import blank_batch
from engine.run import Run, open_run
from loaders.batch import Batch
from loaders.loader import Loader
from loaders.order import Indices, Partition
from loaders.placement import available_placements
from prep.metadata import FEATURES

_RATE = 20_000  # images/s that a GPU may reach: with 128 images a step takes 6.4 ms
_ALLOWED = 0.25  # of that time, for the training thread; the rest is for what its core does besides


@dataclass(frozen=True, kw_only=True)
class HostBenchmarkConfig:
    """What `python -m benchmarks.host` is asked for."""

    shards: str = "shards/isic"
    """Folder of the shard set whose images the loader reads."""
    batch_size: int = 128
    """Images of a step (1 or more)."""
    steps: int = 100
    """Steps of a turn (1 or more)."""
    rounds: int = 7
    """Rounds (1 or more)."""
    device: Device = "auto"
    """auto takes the GPU where there is one."""
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    """How the loader works, but for its placement, which is each one that this machine has."""
    out: str = "benchmarks/results/host.json"
    """Where the record is written."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "steps", "rounds"):
            check(getattr(self, name) >= 1, name, getattr(self, name), "give 1 or more")


def main(argv: Sequence[str]) -> None:
    """Parse, measure, record."""
    description = (__doc__ or "").split("\n")[0]
    config = parse(HostBenchmarkConfig, argv, prog="python -m benchmarks.host", description=description)
    with tempfile.TemporaryDirectory() as folder, joined_ranks(config.device) as ranks:
        words = [f"--shards={config.shards}", f"--out={folder}", f"--device={config.device}", "--resume=never"]
        words += ["--backbone=tiny", "--weights=none", "--fold=0", f"--batch-size={config.batch_size}"]
        words += ["--model.inputs=meta", "--save-every=1000000", "--save-minutes=0"]  # no network is run, nothing saved
        recipe = parse(TrainConfig, words, prog="train.py", description="")
        with open_run(recipe, ranks) as run:
            write(Path(config.out), measured(config, run, ranks))


def measured(config: HostBenchmarkConfig, run: Run, ranks: Ranks) -> Record:
    """Microseconds of each way, their ratios to the bare loop, and their shares of the time of a step."""
    samples = replace(
        run.data.samples, partition=Partition(samples=config.steps * config.batch_size, batch_size=config.batch_size)
    )
    rows = np.resize(samples.train_rows, samples.partition.samples)
    blank = blank_batch(config.batch_size, samples.shards.size, len(FEATURES[run.config.model.meta]), ranks.device)
    loss = torch.zeros((), device=ranks.device)
    step = replace(run.trainer.step, iteration=lambda _: loss)
    run = replace(
        run, trainer=replace(run.trainer, step=step), data=replace(run.data, samples=samples, stream=repeat(blank))
    )
    ways: dict[str, Callable[[], object]] = {
        "bare": lambda: bare(config.steps, blank, loss),
        "loop": lambda: epoch(run),
    }
    with ExitStack() as loaders:
        for placement in available_placements(ranks.device):
            chosen = replace(config.loader, placement=placement)
            loader = loaders.enter_context(Loader(chosen, samples.shards, rows, ranks.device, threads=ranks.threads))
            ways[f"loop, fed by {placement}"] = partial(fed, run, loader, rows)
        turns = {name: _timed(way, samples.partition.samples) for name, way in ways.items()}
        in_turns(turns, 1)  # warm
        found = in_turns(turns, config.rounds)
    shares = {name: [us * _RATE / 1e6 for us in values] for name, values in found.items()}
    return {
        "what": "Microseconds of the training thread's CPU time per image, without the device's work: a bare loop that "
        "adds up losses, train.py's loop over batches that are there, and the same fed by the loader",
        "size": samples.shards.size,
        "batch_size": config.batch_size,
        "steps": config.steps,
        "rounds": config.rounds,
        "us_per_image": {name: spread(values) for name, values in found.items()},
        "multiple_of_bare": {name: spread(ratios(found[name], found["bare"])) for name in found if name != "bare"},
        f"share_of_a_step_at_{_RATE}_images_per_s": {name: spread(values) for name, values in shares.items()},
        "allowed_share": _ALLOWED,
        "all_within": all(spread(values)["median"] <= _ALLOWED for values in shares.values()),
    }


def bare(steps: int, batch: Batch, loss: Tensor) -> Tensor:
    """What any loop has to do: take a batch, step, add up the loss without waiting for it."""
    total = torch.zeros_like(loss, dtype=torch.float64)
    for each in repeat(batch, steps):
        total += loss.double() * len(each.index)
    return total


def fed(run: Run, loader: Loader, rows: Indices) -> None:
    """An epoch of `rows` from the loader."""
    partition, config = run.data.samples.partition, run.config
    stream = loader.train_batches(rows, partition, config.augment, meta=config.model.meta, seed=0, epochs=range(1))
    epoch(replace(run, data=replace(run.data, loader=loader, stream=stream)))


def epoch(run: Run) -> None:
    """train.py's train_epoch, which nothing may import; a test compares them line by line."""
    run.state.step = 0
    share = run.data.samples.partition.mean_share
    with run.epoch_progress() as progress:
        for batch in progress.over(run.stop.over(run.data.train_batches(run.state))):
            loss = run.trainer.step(batch)
            run.state.consume(loss, share)
            progress.add(loss, batch)
            run.save_if_due(progress)
        progress.finish()


def _timed(way: Callable[[], object], images: int) -> Callable[[], float]:
    """A turn: microseconds of this thread's CPU time per image."""

    def turn() -> float:
        begin = time.thread_time()
        way()
        return (time.thread_time() - begin) / images * 1e6

    return turn


if __name__ == "__main__":
    run_command(main)
