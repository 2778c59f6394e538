"""Does the training step ever wait for data? One backbone's step, fed in four ways that take turns.

loader: the stream alone. resident: the step on one batch of noise, again and again. replayed: the step on real batches
that already lie on the device, what a loader without any cost would give. real: the step on the stream, as train.py
feeds it. resident is measured twice in each round, as a control.
"""

import gc
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import cycle, islice, repeat
from pathlib import Path
from statistics import median

import torch

from benchmarks.limits import Reach, shares
from benchmarks.record import TrainingFigures
from benchmarks.trainer import export
from benchmarks.turns import in_turns, interval, noise, ratio, ratios, spread
from benchmarks.work import step_work
from configs.cli import parse, with_recipe
from configs.errors import UserError
from configs.machine import usable_cores
from configs.schema import TrainConfig
from engine.distributed import Ranks
from engine.session import Session
from loaders.meter import LoadReport, WaitMeter
from loaders.stream import TENSORS, Batch
from loaders.verdict import Feed, verdict

_EPOCHS = 1000  # more than any measurement takes: the schedule must not end
_REPLAYED = 8  # batches kept
_FEWEST = 3  # steps of a turn
_AGAIN = "resident again"
_PLAIN_SECONDS = 1800


def train_config(words: Sequence[str], backbone: str, out: Path) -> TrainConfig:
    """The recipe of the backbone with `words` on top, from random weights, for as long as a measurement takes."""
    words = with_recipe([f"--backbone={backbone}", *words, f"--out={out}"], backbone)
    words += ["--weights=none", f"--epochs={_EPOCHS}", "--log-every=0", "--resume=never"]
    return parse(TrainConfig, words, prog="train.py", description="")


def measured(session: Session, ranks: Ranks, reach: Reach, *, rounds: int, seconds: float) -> TrainingFigures:
    """Images/s of each way over the rounds, what bounds the run, and what the step makes of the machine.

    `seconds` is about what is timed of each turn.
    """
    session.model.train()
    begin, stream = time.perf_counter(), endless(session)
    _step(session, next(stream))
    _wait(ranks)
    first = time.perf_counter() - begin
    kept = [_copied(batch) for batch in islice(stream, _REPLAYED)]
    noisy = replace(kept[0], image=torch.randint_like(kept[0].image, 256))
    fed = _Watched(session, stream, ranks)
    margin = session.config.loader.prefetch + 2  # batches that were made before the turn began

    def step(batch: Batch) -> None:
        _step(session, batch)

    ways: dict[str, Callable[[], float]] = {
        "loader": _Turns(fed.batches, lambda _: None, ranks, seconds, margin),
        "resident": _Turns(lambda: repeat(noisy), step, ranks, seconds, 1),
        _AGAIN: _Turns(lambda: repeat(noisy), step, ranks, seconds, 1),
        "replayed": _Turns(lambda: cycle(kept), step, ranks, seconds, 1),
        "real": _Turns(fed.watched, step, ranks, seconds, margin),
    }
    rates = in_turns(ways, rounds)
    control = noise(rates["resident"], rates[_AGAIN])
    on_gpu, config = ranks.device.type == "cuda", session.config
    stages = {name: round(median(one.stage_us[name] for one in fed.reports), 1) for name in fed.reports[0].stage_us}
    saturation = ratio(rates["real"], rates["replayed"])
    utilisation = spread([1 - (one.waiting if one.gpu_idle is None else one.gpu_idle) for one in fed.reports])
    own = {name: median(rates[name]) for name in ("loader", "replayed", "real")}
    feed = Feed(
        kept=saturation.median,
        interval=interval(ratios(rates["real"], rates["replayed"])),
        loader_alone=own["loader"] / own["replayed"],
        stage_us=stages,
        placement=session.loader.placement,
        cache=config.loader.cache,
        on_gpu=on_gpu,
    )
    peak = torch.cuda.max_memory_reserved() if on_gpu else 0  # before the work is counted, in a step of its own
    work = step_work(session, kept[0])
    return TrainingFigures(
        backbone=config.backbone,
        size=session.shards.size,
        batch_size=config.batch_size,
        placement=session.loader.placement,
        cache=config.loader.cache,
        speed=session.speed_facts,
        images_per_s={name: spread(rates[name]) for name in rates if name != _AGAIN},
        noise=control,
        saturation=saturation,
        contention=ratio(rates["replayed"], rates["resident"]),
        utilisation=utilisation,
        stage_us=stages,
        first_step_s=round(first, 2),
        bound=feed.bound,
        verdict=verdict(feed, _rates(own, feed)),
        work=shares(work, median(rates["resident"]), reach),
        peak_gpu_gib=round(peak / 2**30, 2) if on_gpu else None,
    )


def _rates(own: dict[str, float], feed: Feed) -> str:
    low, high = feed.interval or (feed.kept, feed.kept)
    loader, alone, real = (
        f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}" for rate in (own["loader"], own["replayed"], own["real"])
    )
    return (
        f"{real} images/s, and {alone} without data loading (saturation {feed.kept:.2f}, 90 % interval {low:.2f} to "
        f"{high:.2f}); the loader alone makes {loader}"
    )


def endless(session: Session) -> Iterator[Batch]:
    """The training stream, epoch after epoch."""
    while True:
        yield from session.train_epoch_batches()
        session.epoch, session.step = session.epoch + 1, 0


@dataclass
class _Turns:
    """One way to feed: each call is a turn and gives images/s, from one idle device to the next.

    The first `margin` batches of a turn are not timed; how many then are is found in the first turn.
    """

    batches: Callable[[], Iterable[Batch]]
    use: Callable[[Batch], None]
    ranks: Ranks
    seconds: float
    margin: int
    steps: int = 0

    def __call__(self) -> float:
        stream = iter(self.batches())
        if not self.steps:
            self._run(stream, self.margin)
            self.steps = max(_FEWEST, round(self.seconds / self._run(stream, _FEWEST)[0] * _FEWEST))
        self._run(stream, self.margin)
        seconds, images = self._run(stream, self.steps)
        return images / seconds

    def _run(self, stream: Iterator[Batch], steps: int) -> tuple[float, int]:
        _wait(self.ranks)
        begin, images = time.perf_counter(), 0
        for batch in islice(stream, steps):
            self.use(batch)
            images += len(batch.index)
        _wait(self.ranks)
        return time.perf_counter() - begin, images


@dataclass
class _Watched:
    """The real stream, and a report of how each turn on it was fed."""

    session: Session
    stream: Iterator[Batch]
    ranks: Ranks
    reports: list[LoadReport] = field(default_factory=list)

    def batches(self) -> Iterator[Batch]:
        """As it is."""
        return self.stream

    def watched(self) -> Iterator[Batch]:
        """The same; its report is made when the turn is over."""
        clock = self.session.loader.source.clock
        before, meter = clock.copy(), WaitMeter(self.ranks.device)
        try:
            yield from meter.over(self.stream)
        finally:
            self.reports.append(meter.report(clock.since(before)))


def plain(
    config: TrainConfig, folder: Path, device: torch.device, *, channels_last: bool, epochs: int, images: int
) -> float:
    """Images/s of the plain trainer's last epoch on at most `images` of the same JPEGs, a worker for every core.

    On a GPU with bf16 autocast and the layout that ours was run in. Raises UserError where it fails.
    """
    from models.backbones import SHORT_NAMES

    export(Path(config.shards), folder / "plain", most=images)
    words = ["-m", "benchmarks.peers.plain_torch", "--data", str(folder / "plain"), "--out", str(folder / "plain.csv")]
    words += ["--backbone", SHORT_NAMES.get(config.backbone, config.backbone), "--epochs", str(epochs)]
    words += ["--batch-size", str(config.batch_size), "--lr", "1e-4", "--workers", str(usable_cores())]
    words += ["--device", device.type]
    if device.type == "cuda":
        words += ["--amp", *(["--channels-last"] if channels_last else [])]
    try:
        done = subprocess.run(
            [sys.executable, *words], capture_output=True, text=True, check=False, timeout=_PLAIN_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise UserError(f"it took more than {_PLAIN_SECONDS} s: lower --plain_images") from error
    speeds = [float(word) for word in re.findall(r"([\d.]+) img/s", done.stdout)]
    if done.returncode or not speeds:
        raise UserError(([*done.stderr.splitlines()] or ["it ended without a word"])[-1])
    return speeds[-1]


def free_gpu_memory() -> None:
    """Give back what torch keeps of the GPU's memory, for other processes, and forget how much it was at most."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _step(session: Session, batch: Batch) -> None:
    session.begin_step()
    session.gradients(batch)
    session.apply_gradients()


def _copied(batch: Batch) -> Batch:
    """A batch of its own memory: the stream's may be written again."""
    return replace(batch, **{name: getattr(batch, name).clone() for name in TENSORS})


def _wait(ranks: Ranks) -> None:
    if ranks.device.type == "cuda":
        torch.cuda.current_stream(ranks.device).synchronize()  # batches that are made ahead may go on
