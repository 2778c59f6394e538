"""Does the training step ever wait for data? One backbone's step, fed in four ways that take turns.

loader: the stream alone. resident: the step on one batch of noise, again and again. replayed: the step on real batches
that are on the device already, what a loader without any cost would give. real: the step on the stream, as train.py
feeds it. resident is measured twice in each round, as a control.
"""

import gc
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from itertools import cycle, islice, repeat
from statistics import median

import torch

from benchmarks.limits import of_matrix_product
from benchmarks.record import Record
from benchmarks.rounds import Spread, in_turns, interval, noise, ratios, spread
from benchmarks.traffic import attainable
from engine.run import Run
from engine.step import Gradients
from loaders.batch import TENSORS, Batch
from loaders.meter import LoadReport, WaitMeter
from loaders.verdict import Feed, verdict

_REPLAYED = 8  # batches kept
_FEWEST = 3  # steps of a turn
_AGAIN = "resident again"
Use = Callable[[Batch], object]


def measured(run: Run, limits: dict[str, Spread], *, rounds: int, seconds: float) -> Record:
    """Images/s of each way over the rounds, what bounds the run, and what the step makes of the machine's `limits`.

    `seconds` is about what is timed of each turn. noise: the A/A control; saturation: real / replayed, and its 90 %
    interval; contention: replayed / resident; utilisation: share of the time that steps took, by CUDA events on a GPU,
    else by the wait for batches; stage_us: microseconds per image in the loader's threads; memory_allows: MB an image
    and images/s by a model of the step's memory traffic (benchmarks/traffic.py).
    """
    config = run.config
    run.trainer.model.train()
    rates, reports, batch = _rates(run, rounds, seconds)
    again = rates.pop(_AGAIN)
    medians, kept = {name: median(found) for name, found in rates.items()}, ratios(rates["real"], rates["replayed"])
    low, high = interval(kept)
    feed = Feed(
        kept=median(kept),
        interval=(low, high),
        loader_alone=medians["loader"] / medians["replayed"],
        stage_us={name: round(median(each.stage_us[name] for each in reports), 1) for name in reports[0].stage_us},
        placement=run.data.loader.placement,
        cache=config.loader.cache,
        on_gpu=run.ranks.device.type == "cuda",
    )
    # One operation after the other: in a compiled or captured step they cannot be seen.
    trainer, samples = run.trainer, len(batch.index)
    eager = Gradients(
        network=trainer.model,
        objective=trainer.objective,
        autocast=trainer.autocast,
        scaler=trainer.scaler,
        samples=samples,
    )
    real, replayed, loader = (_rate(medians[name]) for name in ("real", "replayed", "loader"))
    figures = (
        f"{real} images/s, and {replayed} without data loading (ratio {feed.kept:.2f}, 90 % interval {low:.2f} to "
        f"{high:.2f}); the loader alone makes {loader}"
    )
    return {
        "backbone": config.backbone,
        "batch_size": config.batch_size,
        "placement": feed.placement,
        "cache": feed.cache,
        "speed": asdict(run.trainer.speed),
        "images_per_s": {name: spread(found) for name, found in rates.items()},
        "noise": noise(rates["resident"], again),
        "saturation": spread(kept),
        "interval": (low, high),
        "contention": spread(ratios(rates["replayed"], rates["resident"])),
        "utilisation": spread([1 - (each.waiting if each.gpu_idle is None else each.gpu_idle) for each in reports]),
        "stage_us": feed.stage_us,
        "bound": feed.bound,
        "verdict": verdict(feed, figures),
        "memory_allows": attainable(lambda: eager(batch), samples, limits),
        "of_matrix_product": of_matrix_product(run.trainer.model, batch, medians["resident"], limits),
        "peak_gpu_gib": round(torch.cuda.max_memory_reserved() / 2**30, 2) if feed.on_gpu else None,
    }


def _rates(run: Run, rounds: int, seconds: float) -> tuple[dict[str, list[float]], list[LoadReport], Batch]:
    """Images/s of each way in each round, a report for each round of the real stream, and a real batch."""
    stream, reports = run.data.stream, list[LoadReport]()
    run.trainer.step(next(stream))
    kept = [  # in memory of their own: the stream's may be written again
        replace(batch, **{name: getattr(batch, name).clone() for name in TENSORS})
        for batch in islice(stream, _REPLAYED)
    ]
    noisy = replace(kept[0], image=torch.randint_like(kept[0].image, 256))
    ahead = run.config.loader.prefetch + 2  # batches that were made before the turn began

    def way(batches: Callable[[], Iterable[Batch]], margin: int, use: Use = run.trainer.step) -> Feeding:
        return Feeding(batches, use, run.ranks.device, seconds, margin)

    ways: dict[str, Callable[[], float]] = {
        "loader": way(lambda: stream, ahead, use=lambda _: None),
        "resident": way(lambda: repeat(noisy), 1),
        _AGAIN: way(lambda: repeat(noisy), 1),
        "replayed": way(lambda: cycle(kept), 1),
        "real": way(lambda: _watched(run, stream, reports), ahead),
    }
    return in_turns(ways, rounds), reports, kept[0]


def _watched(run: Run, stream: Iterator[Batch], reports: list[LoadReport]) -> Iterator[Batch]:
    """The real stream; a report of how it fed the step is added when the turn is over."""
    clock = run.data.loader.clock
    before, meter = clock.copy(), WaitMeter(run.ranks.device)
    try:
        yield from meter.over(stream)
    finally:
        reports.append(meter.report(clock.since(before)))


@dataclass
class Feeding:
    """One way to feed: each call is a turn and gives images/s, from one idle device to the next.

    The first `margin` batches of a turn are not timed; how many then are is found in the first turn.
    """

    batches: Callable[[], Iterable[Batch]]
    use: Use
    device: torch.device
    seconds: float
    margin: int
    steps: int = field(default=0, init=False)

    def __call__(self) -> float:
        """One turn."""
        stream = iter(self.batches())
        if not self.steps:
            self._run(stream, self.margin)
            self.steps = max(_FEWEST, round(self.seconds / self._run(stream, _FEWEST)[0] * _FEWEST))
        self._run(stream, self.margin)
        seconds, images = self._run(stream, self.steps)
        return images / seconds

    def _run(self, stream: Iterator[Batch], steps: int) -> tuple[float, int]:
        self._wait()
        begin, images = time.perf_counter(), 0
        for batch in islice(stream, steps):
            self.use(batch)
            images += len(batch.index)
        self._wait()
        return time.perf_counter() - begin, images

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()  # batches that are made ahead may go on


def _rate(images: float) -> str:
    return f"{images:,.{int(images < 100)}f}"


def free_gpu_memory() -> None:
    """Give back what torch keeps of the GPU's memory, for other processes, and forget how much it was at most."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
