"""How fast is the stream of samples? Every placement and tier beside bare libjpeg-turbo decoding of the same JPEGs.

    python -m benchmarks.throughput --shards shards/isic --out benchmarks/results/loader.json

The loader alone, nothing trains. Each round times every contender once, in turn; ratios are medians of the rounds'
ratios to the bare decode. On a CUDA machine the GPU placements join by themselves.
"""

import resource
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import torch

from benchmarks.environment import environment, write_record
from configs.cli import parse, run_command
from configs.errors import UserError
from configs.machine import usable_cores
from configs.schema import AugmentConfig, LoaderConfig
from loaders.augment import draw_params
from loaders.meter import StageClock, WaitMeter
from loaders.order import Partition, permutation
from loaders.pixels import empty_pictures
from loaders.placement import Loader, open_loader
from loaders.reference import reference_loader
from loaders.shards import ShardSet
from loaders.show import available_loaders
from loaders.stream import Batch, batches, train_requests

_FLIPS = AugmentConfig(
    quarter_turn=0.0,
    shift_scale_rotate=0.0,
    hue_saturation_value=0.0,
    brightness_contrast=0.0,
    coarse_dropout=0.0,
    meta_dropout=0.0,
)
_WORKLOADS = {
    "flips": _FLIPS,
    "flips and quarter turns": replace(_FLIPS, quarter_turn=0.5),
    "full augmentation": AugmentConfig(),
}
_BARE = "bare libjpeg-turbo decode"
_TO_BATCHES = "the same, checksums, to batches in memory"
_PARITY_IMAGES = 512


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
    rounds: int = 7
    """Rounds over all contenders (1 or more)."""
    images: int = 16_000
    """Images that each contender makes in a round (1 or more); an epoch is repeated or cut for it."""
    prefetch: int = 2
    """Batches made ahead."""

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.batch_size < 1 or self.images < 1 or self.threads < 0:
            raise UserError("rounds, images and batch_size must be 1 or more, threads 0 or more")


def main(argv: Sequence[str]) -> None:
    """Parse, measure, print, record."""
    config = parse(
        ThroughputConfig, argv, prog="python -m benchmarks.throughput", description=(__doc__ or "").split("\n")[0]
    )
    shards, threads = ShardSet(Path(config.shards)), config.threads or usable_cores()
    config = replace(config, threads=threads)
    lengths = [len(shards.jpeg(index)) for index in range(len(shards))]
    record: dict[str, Any] = {
        "what": "the loader alone: uint8 NHWC batches on the device, warm page cache",
        **environment(),
        "config": {name: value for name, value in asdict(config).items() if name not in ("shards", "out")},
        "set": {"size": shards.size, "samples": len(shards), "mean_jpeg_bytes": round(float(np.mean(lengths)))},
        "first_batch_s": {name: first_batch(config, name, loader) for name, loader in available_loaders().items()},
    }
    with ExitStack() as opened:
        contenders = _contenders(config, shards, opened)
        figures = _rounds(config, contenders)
        record["images_per_s"] = figures
        if torch.cuda.is_available():
            record["parity"] = {
                name: _difference(config, shards, name, loader) for name, loader in _loaders().items() if "gpu" in name
            }
    record |= {"planning": planning(config, figures), "meter": metering(config, figures)}
    for name, figure in figures.items():
        print(f"{name:40} {figure['median']:9,.0f} img/s ({figure['low']:,.0f} to {figure['high']:,.0f})", end="")
        print(f"  ratio {figure['ratio']:.2f} ({figure['ratio_low']:.2f} to {figure['ratio_high']:.2f})", end="")
        print(f"  {figure['cpu_us']:.0f} us of this process's CPU an image")
    for name in ("first_batch_s", "planning", "meter", "parity"):
        if name in record:
            print(f"{name}: {record[name]}")
    write_record(Path(config.out), record)


def _loaders() -> dict[str, LoaderConfig]:
    """Everything that runs here: the placements, and the pixels kept in memory."""
    loaders = {**available_loaders(), "host, cached in ram": LoaderConfig(placement="host", cache="ram")}
    if torch.cuda.is_available():
        loaders["host, to the gpu"] = LoaderConfig(placement="host")
        loaders["dali-gpu, cached in ram"] = LoaderConfig(placement="dali-gpu", cache="ram")
    return loaders


def _contenders(config: ThroughputConfig, shards: ShardSet, opened: ExitStack) -> dict[str, Callable[[int], int]]:
    """Name -> one pass of `config.images` images; its argument is the number of the round."""
    rows = np.flatnonzero(shards.fold >= 0)
    contenders: dict[str, Callable[[int], int]] = {
        _BARE: _bare(config, shards, rows),
        _TO_BATCHES: _bare(config, shards, rows, to_batches=True),
        "webdataset, Pillow, torch; flips": _reference(config, shards),
    }
    for name, loader_config in _loaders().items():
        device = _device(name)
        loader_config = replace(loader_config, threads=config.threads, prefetch=config.prefetch)
        loader = opened.enter_context(open_loader(loader_config, shards, rows, device, threads=config.threads))
        for workload, augment in _WORKLOADS.items():
            contenders[f"{name}; {workload}"] = _ours(config, loader, rows, augment, device)
    return contenders


def _device(name: str) -> torch.device:
    return torch.device("cuda", 0) if "gpu" in name else torch.device("cpu")


def _bare(
    config: ThroughputConfig, shards: ShardSet, rows: np.ndarray, *, to_batches: bool = False
) -> Callable[[int], int]:
    """Bytes in memory to pixels in one reused buffer a thread: nothing that a loader could do without.

    `to_batches` adds the least that any loader must do besides: check each JPEG where it lies in its shard, and leave
    the pixels in batches, in as many buffers as the host path has.
    """
    index = np.resize(rows, config.images)
    jpegs = [] if to_batches else [bytes(jpeg) for jpeg in shards.jpegs(index)]
    shape = (shards.size, shards.size, 3)
    ring = empty_pictures(((config.prefetch + 2) * config.batch_size if to_batches else 1, *shape)).numpy()

    def decode(start: int) -> None:
        places = range(start, min(start + 32, config.images))
        part = shards.jpegs(index[start : places.stop]) if to_batches else jpegs[start : places.stop]
        own = empty_pictures(shape).numpy()
        for place, jpeg in zip(places, part, strict=True):
            simplejpeg.decode_jpeg(jpeg, buffer=ring[place % len(ring)] if to_batches else own)

    def run(_: int) -> int:
        with ThreadPoolExecutor(config.threads) as pool:
            list(pool.map(decode, range(0, config.images, 32)))
        return config.images

    return run


def _reference(config: ThroughputConfig, shards: ShardSet) -> Callable[[int], int]:
    tars = [shards.folder / entry.file for entry in shards.manifest.shards if "train" in entry.file]
    loader = reference_loader(tars, config.batch_size, workers=config.threads, seed=0)

    def run(_: int) -> int:
        seen = 0
        while seen < config.images:  # whole epochs, so that no worker goes on beside the next contender
            seen += sum(len(images) for images, _, _ in loader)
        return seen

    return run


def _ours(
    config: ThroughputConfig, loader: Loader, rows: np.ndarray, augment: AugmentConfig, device: torch.device
) -> Callable[[int], int]:
    renderer = loader.renderer(config.batch_size)

    def run(number: int) -> int:
        stream = _stream(config, loader, renderer, rows, augment, device, number)
        seen = sum(len(batch.index) for batch in stream)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return seen

    return run


def _stream(
    config: ThroughputConfig,
    loader: Loader,
    renderer: Any,
    rows: np.ndarray,
    augment: AugmentConfig,
    device: torch.device,
    seed: int,
) -> Iterator[Batch]:
    shards = loader.source.shards
    partition = Partition(samples=len(rows), batch_size=config.batch_size)
    epochs = range(-(-config.images // len(rows)) + 1)
    requests = train_requests(rows, partition, augment, seed=seed, size=shards.size, epochs=epochs)
    wanted = islice(requests, -(-config.images // config.batch_size))
    return batches(shards, "clinical", renderer, wanted, device)


def _rounds(config: ThroughputConfig, contenders: dict[str, Callable[[int], int]]) -> dict[str, dict[str, float]]:
    for run in contenders.values():  # the first run of each pays for page cache and start-up
        run(0)
    timed: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    for number in range(1, config.rounds + 1):
        turn = number % len(contenders)  # another one first each time, so that neighbours' traces spread
        for name, run in [*contenders.items()][turn:] + [*contenders.items()][:turn]:
            start, cpu = time.perf_counter(), _cpu_seconds()
            images = run(number)
            timed[name].append(((time.perf_counter() - start) / images, (_cpu_seconds() - cpu) / images))
    bare = [seconds for seconds, _ in timed[_BARE]]
    return {name: _figure(rounds, bare) for name, rounds in timed.items()}


def _figure(rounds: Sequence[tuple[float, float]], bare: Sequence[float]) -> dict[str, float]:
    """From seconds and CPU seconds an image of each round, and the bare decode's seconds."""
    rates = [1 / seconds for seconds, _ in rounds]
    ratios = [base / seconds for (seconds, _), base in zip(rounds, bare, strict=True)]
    return {
        "median": round(statistics.median(rates), 1),
        "low": round(min(rates), 1),
        "high": round(max(rates), 1),
        "ratio": round(statistics.median(ratios), 3),
        "ratio_low": round(min(ratios), 3),
        "ratio_high": round(max(ratios), 3),
        "cpu_us": round(statistics.median(cpu for _, cpu in rounds) * 1e6, 1),
    }


def _cpu_seconds() -> float:
    """CPU time of this process over all of its threads; worker processes of the reference are not in it."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def first_batch(config: ThroughputConfig, name: str, loader_config: LoaderConfig) -> float:
    """Seconds from nothing but the folder's name to the first training batch; imports are done."""
    device, start = _device(name), time.perf_counter()
    shards = ShardSet(Path(config.shards))
    rows = np.flatnonzero(shards.fold >= 0)
    with open_loader(loader_config, shards, rows, device, threads=config.threads) as loader:
        stream = _stream(config, loader, loader.renderer(config.batch_size), rows, AugmentConfig(), device, 0)
        next(stream)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - start
        stream.close()  # type: ignore[attr-defined]
    shards.close()
    return round(seconds, 3)


def planning(config: ThroughputConfig, figures: dict[str, dict[str, float]]) -> dict[str, float]:
    """What order and parameters of an epoch of 1,000,000 samples cost, beside the steps that they are for."""
    samples, together = 1_000_000, 2048
    orders = [_seconds(lambda: permutation(samples, 0, 0)) for _ in range(3)]
    index = permutation(samples, 0, 0)[:together]
    draws = [_seconds(lambda: draw_params(AugmentConfig(), seed=0, epoch=0, index=index, size=256)) for _ in range(50)]
    order = statistics.median(orders) / samples * config.batch_size
    params = statistics.median(draws) / together * config.batch_size
    return {
        "order_us_a_step": round(order * 1e6, 1),
        "params_us_a_step": round(params * 1e6, 1),
        "share_of_a_step": round((order + params) / _step_seconds(config, figures), 5),
    }


def _step_seconds(config: ThroughputConfig, figures: dict[str, dict[str, float]]) -> float:
    """The shortest step that anything here takes over decoded, fully augmented batches; training only adds to it."""
    fastest = max(
        one["median"] for name, one in figures.items() if name.endswith("; full augmentation") and "cached" not in name
    )
    return config.batch_size / fastest


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def metering(config: ThroughputConfig, figures: dict[str, dict[str, float]]) -> dict[str, float]:
    """What the meter adds to a step: its clock readings, and what the stages of a batch add."""
    steps, clock = 20_000, StageClock()
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")

    def metered() -> None:
        for _ in WaitMeter(device).over(range(steps)):
            clock.batch(config.batch_size, 2)
            for stage in ("read", "decode", "augment", "copy"):
                for _ in range(4):  # tasks of a batch
                    clock.add(stage, 0.0)
            for _ in range(3 * config.batch_size):
                time.perf_counter()

    cost = _seconds(metered) / steps
    return {"us_a_step": round(cost * 1e6, 2), "share_of_a_step": round(cost / _step_seconds(config, figures), 5)}


def _difference(config: ThroughputConfig, shards: ShardSet, name: str, loader: LoaderConfig) -> float:
    """Mean absolute difference to the host path's pictures, of 255, over the first images of an epoch."""
    rows, total, seen = np.flatnonzero(shards.fold >= 0)[:_PARITY_IMAGES], 0.0, 0
    small = replace(config, images=len(rows), batch_size=64)
    streams = []
    with ExitStack() as opened:
        for device, one in ((_device(name), loader), (torch.device("cpu"), LoaderConfig(placement="host"))):
            source = opened.enter_context(open_loader(one, shards, rows, device, threads=config.threads))
            streams.append(_stream(small, source, source.renderer(64), rows, AugmentConfig(), device, 0))
        for ours, host in zip(*streams, strict=True):
            total += float((ours.image.cpu().int() - host.image.int()).abs().float().mean())
            seen += 1
    return round(total / seen, 3)


if __name__ == "__main__":
    run_command(main)
