"""How our stream grows: with threads, batch, image size, ranks and samples. One thing is varied, the rest stays."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from benchmarks.contenders import Ground, ours
from benchmarks.peers.job import Job
from benchmarks.process import ROOT, LoaderProcess, Turn
from benchmarks.record import Point, Sweep
from benchmarks.turns import in_turns, spread
from configs.errors import UserError
from prep.files import written_whole
from prep.manifest import MANIFEST, SAMPLES, read_manifest

_ROWS_AT_A_TIME = 65_536


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What is swept."""

    threads: Sequence[int]
    ranks: Sequence[int]
    batch: Sequence[int] = (16, 32, 64, 128, 256, 512)
    edge: Sequence[int] = (128, 192, 256, 384, 512)
    edge_images: int = 1500
    samples: Sequence[int] = (5_000, 50_000, 250_000, 1_000_000)


def sweeps(place: Ground, sizes: Sizes, *, rounds: int, seconds: float, say: Callable[[str], None]) -> list[Sweep]:
    """All of them, the whole augmentation, our default placement."""
    job = place.job(ours(place.device, "none")[0], "full")

    def swept(name: str, cases: dict[float, list[Job]]) -> list[_Seen]:
        say(f"scaling: {name} {', '.join(f'{x:g}' for x in cases)}")
        return _measured(place, name, cases, rounds, seconds)

    threads = swept("threads", {one: [replace(job, threads=one)] for one in sizes.threads})
    ranks = swept("ranks", {one: _ranks(job, one, place.threads) for one in sizes.ranks})
    batch = swept("batch", {one: [replace(job, batch_size=one)] for one in sizes.batch})
    edge = swept("size", {one: [_of_size(job, place.work, one, sizes.edge_images)] for one in sizes.edge})
    samples = swept("samples", {one: [replace(job, shards=str(repeated(place, one)))] for one in sizes.samples})
    return [
        _sweep("threads", threads, _rates, "each thread adds {slope:,.0f} images/s up to the cores", place.threads),
        _sweep("ranks", ranks, _rates, "each rank changes the whole by {slope:,.0f} images/s"),
        _sweep("batch", batch, _batch_ms, "a batch costs {intercept:.2f} ms, and {slope_us:.0f} us an image"),
        _sweep(
            "size",
            [replace(one, x=one.x**2 / 1000) for one in edge],
            _image_us,
            "an image costs {intercept:.0f} us, and {slope:.2f} us a thousand pixels",
        ),
        _sweep(
            "samples",
            samples,
            _image_us,
            "an image costs {intercept:.0f} us, and {million:+.1f} us more with each million samples; their index "
            "takes {memory_bytes:.0f} bytes a sample",
        ),
    ]


@dataclass(kw_only=True)
class _Seen:
    x: float
    rates: list[float]
    memory_mib: float
    open_s: float


_LABELS = {
    "threads": ("threads", "images/s"),
    "ranks": ("ranks on this machine, which share its cores", "images/s, all ranks"),
    "batch": ("images in a batch", "milliseconds a batch"),
    "size": ("thousand pixels an image", "microseconds an image"),
    "samples": ("samples of the set", "microseconds an image"),
}


def _rates(one: _Seen) -> list[float]:
    return one.rates


def _batch_ms(one: _Seen) -> list[float]:
    return [one.x / rate * 1e3 for rate in one.rates]


def _image_us(one: _Seen) -> list[float]:
    return [1e6 / rate for rate in one.rates]


def _measured(place: Ground, name: str, cases: dict[float, list[Job]], rounds: int, seconds: float) -> list[_Seen]:
    with ExitStack() as opened:
        running: dict[str, list[LoaderProcess]] = {}
        for x, jobs in cases.items():
            log = place.work / "logs" / f"{name} {x:g}.log"
            running[f"{x}"] = [opened.enter_context(closing(LoaderProcess("ours", job, log=log))) for job in jobs]
        for step in (LoaderProcess.imported, LoaderProcess.open):
            for processes in running.values():
                for one in processes:
                    step(one)
        turns = {x: _together(processes, seconds) for x, processes in running.items()}
        for turn in turns.values():
            turn()  # pages, pools
        rates = in_turns(turns, rounds)
        return [
            _Seen(
                x=x,
                rates=rates[f"{x}"],
                memory_mib=sum(one.memory_mib or 0.0 for one in running[f"{x}"]),
                open_s=max(one.first_batch_s for one in running[f"{x}"]),
            )
            for x in cases
        ]


def _together(processes: list[LoaderProcess], seconds: float) -> Callable[[], float]:
    def turn() -> float:
        for one in processes:
            one.begin(seconds)
        found: list[Turn] = [one.end(seconds) for one in processes]
        return sum(one.images / one.seconds for one in found)

    return turn


def _sweep(
    name: str, seen: list[_Seen], y: Callable[[_Seen], list[float]], meaning: str, most: float = float("inf")
) -> Sweep:
    points = [
        Point(x=one.x, y=spread(y(one)), memory_mib=round(one.memory_mib, 1), open_s=round(one.open_s, 2))
        for one in seen
    ]
    fitted = [one for one in points if one.x <= most]
    medians = np.array([one.y.median for one in fitted])
    # A rate is measured to some percent of itself, memory to some MiB.
    x = np.array([one.x for one in fitted])
    intercept, slope = line(x, medians, 1 / medians)
    off = float(np.abs(medians / (intercept + slope * x) - 1).max())
    memory = line(np.array([one.x for one in seen]), np.array([one.memory_mib for one in seen]), np.ones(len(seen)))[1]
    figures = {"intercept": intercept, "slope": slope, "slope_us": slope * 1e3, "million": slope * 1e6}
    return Sweep(
        name=name,
        x_label=_LABELS[name][0],
        y_label=_LABELS[name][1],
        points=points,
        intercept=intercept,
        slope=slope,
        off=round(off, 4) if len(fitted) > 2 else None,
        fitted=len(fitted),
        meaning=meaning.format(**figures, memory_bytes=memory * 2**20),
        memory_slope=memory,
    )


def line(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """Intercept and slope of y over x by least squares of the weighted errors; a single point gives a level line."""
    if len(x) < 2:
        return float(y[0]), 0.0
    slope, intercept = np.polyfit(x, y, 1, w=weights)
    return float(intercept), float(slope)


def _ranks(job: Job, ranks: int, threads: int) -> list[Job]:
    """Each rank's share of the threads and of every batch, but no batches so small that their own cost counts."""
    threads, batch_size = max(1, threads // ranks), max(min(16, job.batch_size), job.batch_size // ranks)
    return [
        replace(
            job,
            threads=threads,
            batch_size=batch_size,
            options={**job.options, "rank": rank, "world_size": ranks},
        )
        for rank in range(ranks)
    ]


def _of_size(job: Job, work: Path, edge: int, images: int) -> Job:
    """The job on synthetic images of another size, made once."""
    data, shards = work / f"synthetic{edge}", work / f"shards{edge}"
    if not (shards / MANIFEST).is_file():
        size, test = ["--size", str(edge)], max(10, images // 20)
        made = ["prep/synthetic.py", "--out", str(data), "--train", str(images), "--test", str(test), *size]
        packed = ["prep/shard.py", "--isic2020", str(data / "2020"), "--isic2019", str(data / "2019")]
        for words in (made, [*packed, "--out", str(shards), *size]):
            done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=False)
            if done.returncode:
                raise UserError(f"python {' '.join(words)} failed: {done.stderr[-300:]}")
    return replace(job, shards=str(shards.resolve()), size=edge)


def repeated(place: Ground, samples: int) -> Path:
    """A shard set of `samples` rows that name the few samples of another again and again: only its index is large."""
    folder, source = place.work / f"repeated{samples}", place.shards.resolve()
    if (folder / MANIFEST).is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    manifest = read_manifest(source)
    table = pq.read_table(source / SAMPLES).slice(0, manifest.samples)
    table = table.filter(np.asarray(table["fold"]) >= 0)
    with written_whole(folder / SAMPLES) as out, pq.ParquetWriter(out, table.schema) as writer:
        for start in range(0, samples, _ROWS_AT_A_TIME):
            rows = np.arange(start, min(start + _ROWS_AT_A_TIME, samples)) % len(table)
            writer.write_table(table.take(rows))
    for shard in manifest.shards:
        (folder / shard.file).unlink(missing_ok=True)
        (folder / shard.file).symlink_to(source / shard.file)
    content = {**asdict(manifest), "samples": samples, "files": {}}
    with written_whole(folder / MANIFEST) as out:
        out.write(json.dumps(content).encode())
    return folder
