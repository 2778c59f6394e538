"""Where does the time go? For now: the loader alone, beside bare libjpeg-turbo decoding of the same JPEGs.

    python -m benchmarks.throughput --shards shards/isic --out benchmarks/results/loader.json

Each round times every contender once, in turn; ratios are medians of the rounds' ratios to the bare decode.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import simplejpeg
import torch

from benchmarks.environment import environment, write_record
from configs.cli import parse, run_command
from configs.errors import UserError
from configs.machine import usable_cores
from configs.schema import AugmentConfig, LoaderConfig
from loaders.dali import require_dali
from loaders.order import Partition
from loaders.placement import open_renderer
from loaders.shards import ShardSet
from loaders.stream import batches, train_requests

_FLIPS = replace(
    AugmentConfig(), shift_scale_rotate=0.0, hue_saturation_value=0.0, brightness_contrast=0.0, coarse_dropout=0.0
)


@dataclass(frozen=True, kw_only=True)
class ThroughputConfig:
    """What `python -m benchmarks.throughput` is asked for."""

    shards: str = "shards/isic"
    """Folder of the shard set to read."""
    out: str = "benchmarks/results/loader.json"
    """Where the record is written."""
    batch_size: int = 128
    """Samples of a batch."""
    threads: int = 0
    """Host threads; 0 means one a core."""
    rounds: int = 5
    """Rounds over all contenders (1 or more)."""

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.batch_size < 1 or self.threads < 0:
            raise UserError("rounds and batch_size must be 1 or more, threads 0 or more")


def main(argv: Sequence[str]) -> None:
    """Parse, measure, print, record."""
    config = parse(
        ThroughputConfig, argv, prog="python -m benchmarks.throughput", description=(__doc__ or "").split("\n")[0]
    )
    shards = ShardSet(Path(config.shards))
    threads = config.threads or usable_cores()
    contenders = _contenders(shards, config.batch_size, threads)
    for run in contenders.values():  # the first run of each pays for page cache and start-up
        run()
    rounds = [{name: run() for name, run in contenders.items()} for _ in range(config.rounds)]
    figures = {
        name: _figure([one[name] for one in rounds], [one["raw decode"] for one in rounds]) for name in contenders
    }
    record = {
        "what": "loader alone: decoded images/s into uint8 NHWC batches, warm page cache",
        **environment(),
        "config": asdict(config) | {"threads": threads, "size": shards.size, "samples": len(shards)},
        "mean_jpeg_bytes": round(float(np.mean([len(shards.jpeg(index)) for index in range(len(shards))]))),
        "images_per_s": figures,
    }
    for name, figure in figures.items():
        print(f"{name:28} {figure['median']:8,.0f} img/s ({figure['low']:,.0f} to {figure['high']:,.0f})", end="")
        print(f"  ratio {figure['ratio']:.2f}")
    write_record(Path(config.out), record)


def _contenders(shards: ShardSet, batch_size: int, threads: int) -> dict[str, Callable[[], float]]:
    """Name -> one timed pass over the training samples, in images/s."""
    runs: dict[str, Callable[[], float]] = {"raw decode": lambda: _raw(shards, threads)}
    for placement in ("host", "dali-cpu"):
        if placement == "dali-cpu" and require_dali() is not None:
            continue
        loader = LoaderConfig(placement=placement, threads=threads)
        for workload, augment in (("flips", _FLIPS), ("full augmentation", AugmentConfig())):
            runs[f"{placement}, {workload}"] = lambda loader=loader, augment=augment: _ours(  # type: ignore[misc]
                shards, loader, augment, batch_size, threads
            )
    return runs


def _raw(shards: ShardSet, threads: int) -> float:
    """Checked bytes -> pixels in one reused buffer a task: nothing that a loader could do without."""
    rows = np.flatnonzero(shards.fold >= 0)

    def decode(part: np.ndarray) -> None:
        pixels = np.empty((shards.size, shards.size, 3), dtype=np.uint8)
        for row in part:
            simplejpeg.decode_jpeg(shards.jpeg(row), buffer=pixels)

    start = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(decode, _parts(rows)))
    return len(rows) / (time.perf_counter() - start)


def _parts(rows: np.ndarray) -> list[np.ndarray]:
    return np.array_split(rows, max(1, len(rows) // 32))


def _ours(shards: ShardSet, loader: LoaderConfig, augment: AugmentConfig, batch_size: int, threads: int) -> float:
    rows, device = np.flatnonzero(shards.fold >= 0), torch.device("cpu")
    partition = Partition(samples=len(rows), batch_size=batch_size)
    requests = train_requests(rows, partition, augment, seed=0, size=shards.size, epochs=range(1))
    with open_renderer(loader, shards, batch_size, device, threads=threads) as renderer:
        start = time.perf_counter()
        seen = sum(int(batch.valid.sum()) for batch in batches(shards, "clinical", renderer, requests, device))
        return seen / (time.perf_counter() - start)


def _figure(values: list[float], reference: list[float]) -> dict[str, float]:
    ratios = [value / base for value, base in zip(values, reference, strict=True)]
    return {
        "median": round(statistics.median(values), 1),
        "low": round(min(values), 1),
        "high": round(max(values), 1),
        "ratio": round(statistics.median(ratios), 3),
    }


if __name__ == "__main__":
    run_command(main)
