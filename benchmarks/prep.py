"""How fast is prep, how true, and how much memory does it take?

    python -m benchmarks.prep --isic ../isic-sample --out benchmarks/results/prep.json

Small originals: what prep does to each image (read, hash, decode, encode, stage, pack), beside a bare loop that only
reads, decodes at the same scale and encodes, on as many processes. Large originals: beside Pillow's plain decode and
Lanczos. Each round times both in turn; ratios are medians of the rounds'. Memory: the peaks of a whole build's planning
process and of all its workers together, at two numbers of images.
"""

import io
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image, ImageOps

from benchmarks.environment import environment, write_record
from configs.cli import parse, run_command
from configs.errors import UserError
from configs.machine import usable_cores
from configs.prep import PrepConfig
from prep.images import store_image
from prep.pack import ShardTask, pack_shard
from prep.pool import Workers
from prep.stage import CHUNK, Encoding, StageTask, read_records, stage_chunk

_SAMPLES = PrepConfig(isic2020=".").samples_per_shard
_ENCODING = Encoding(size=256, fit="squash", quality=96, subsampling="4:2:0")


@dataclass(frozen=True, kw_only=True)
class PrepBenchConfig:
    """What `python -m benchmarks.prep` is asked for."""

    isic: str = "../shared/data/isic-sample"
    """Folder with 512 px images in 2020/jpeg/train and originals in raw/."""
    out: str = "benchmarks/results/prep.json"
    """Where the record is written."""
    images: int = 6144
    """Images of 512 px of a round; the ones that are there, several times."""
    rounds: int = 7
    """Rounds (1 or more)."""
    builds: tuple[int, ...] = (2000, 20000)
    """Numbers of images of the builds whose memory is measured; synthetic ones of 96 px."""
    workers: int = 0
    """Processes; 0 means one a core."""

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.images < CHUNK or min(self.builds, default=200) < 200 or self.workers < 0:
            raise UserError(f"rounds must be 1 or more, images {CHUNK}, builds 200, workers 0")


def main(argv: Sequence[str]) -> None:
    """Parse, measure, print, record."""
    config = parse(PrepBenchConfig, argv, prog="python -m benchmarks.prep", description=(__doc__ or "").split("\n")[0])
    workers = config.workers or usable_cores()
    record = {
        "what": "prep: small originals beside a bare loop, large ones beside Pillow, memory of whole builds",
        **environment(),
        "config": {
            "images": config.images,
            "rounds": config.rounds,
            "builds": list(config.builds),
            "workers": workers,
            "encoding": _ENCODING.described(),
        },
        "small": small_originals(config, workers),
        "large": large_originals(config),
        "memory": [whole_build(images, workers) for images in config.builds],
    }
    for name in ("small", "large"):
        print(f"{name}: {record[name]}")
    for build in record["memory"]:
        print(f"build: {build}")
    write_record(Path(config.out), record)


def small_originals(config: PrepBenchConfig, workers: int) -> dict[str, Any]:
    """512 -> 256 px: images/s of the bare loop and of prep, and their ratio."""
    found = [path for path in sorted(Path(config.isic, "2020/jpeg/train").iterdir()) if _edge(path) == (512, 512)]
    if not found:
        raise UserError(f"--isic {config.isic}: no images of 512 x 512 pixels in 2020/jpeg/train")
    paths = [str(found[number % len(found)]) for number in range(config.images)]
    parts = [paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK)]
    with ProcessPoolExecutor(workers) as bare, Workers(workers) as pool:
        contenders: dict[str, Callable[[], float]] = {
            "bare": lambda: _seconds(lambda: list(bare.map(_bare, parts))),
            "prep": lambda: _prep(parts, pool),
        }
        rates = _rates(contenders, len(paths), config.rounds)
    mean_bytes = round(statistics.mean(path.stat().st_size for path in found))
    return {"different_images": len(found), "mean_bytes": mean_bytes, **_figures(rates, "bare", "prep")}


def large_originals(config: PrepBenchConfig) -> dict[str, Any]:
    """6000 x 4000 -> 256 px on one core: images/s of Pillow and of prep, their ratio, and PSNR against Pillow in dB."""
    found = [path for path in sorted(Path(config.isic, "raw").iterdir()) if _edge(path) == (6000, 4000)]
    if not found:
        raise UserError(f"--isic {config.isic}: no originals of 6000 x 4000 pixels in raw")
    files = [path.read_bytes() for path in found]
    encoding = asdict(_ENCODING)
    contenders: dict[str, Callable[[], float]] = {
        "pillow": lambda: _seconds(lambda: [_pillow(data) for data in files]),
        "prep": lambda: _seconds(lambda: [store_image(data, **encoding) for data in files]),
    }
    rates = _rates(contenders, len(files), config.rounds)
    psnr = [round(_psnr(store_image(data, **encoding).jpeg, _pillow(data)), 2) for data in files]
    return {
        "images": len(found),
        **_figures(rates, "pillow", "prep"),
        "psnr_db": dict(zip([path.name for path in found], psnr, strict=True)),
    }


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _rates(contenders: dict[str, Callable[[], float]], images: int, rounds: int) -> dict[str, list[float]]:
    """Images/s of each contender in each round, after one that warms up."""
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, run in contenders.items():
            seconds = run()
            if number:
                rates[name].append(images / seconds)
    return rates


def _figures(rates: dict[str, list[float]], reference: str, ours: str) -> dict[str, Any]:
    ratios = [one / base for one, base in zip(rates[ours], rates[reference], strict=True)]
    return {
        "images_per_s": {name: _spread(values, 1) for name, values in rates.items()},
        "ratio": _spread(ratios, 3),
    }


def _spread(values: list[float], digits: int) -> dict[str, float]:
    named = {"median": statistics.median(values), "low": min(values), "high": max(values)}
    return {name: round(value, digits) for name, value in named.items()}


def _bare(paths: list[str]) -> int:
    """Nothing but what must be: bytes, pixels at half scale in one reused buffer, bytes."""
    buffer = np.empty((256, 256, 3), dtype=np.uint8)
    for path in paths:
        pixels = simplejpeg.decode_jpeg(Path(path).read_bytes(), min_height=256, min_width=256, buffer=buffer)
        simplejpeg.encode_jpeg(pixels, quality=_ENCODING.quality, colorsubsampling="420")
    return len(paths)


def _prep(parts: list[list[str]], pool: Workers) -> float:
    """Seconds for both passes over the images, into a folder that is then removed."""
    folder = Path(tempfile.mkdtemp(prefix="prep-"))
    begun = time.perf_counter()
    try:
        files = [tuple((path, 0, 0) for path in part) for part in parts]
        stages = [
            StageTask(stem=str(folder / f"{number:06d}"), encoding=_ENCODING, files=part)
            for number, part in enumerate(files)
        ]
        list(pool.in_order(stage_chunk, stages))
        each = _SAMPLES // CHUNK
        shards = [stages[start : start + each] for start in range(0, len(stages), each)]
        list(pool.in_order(pack_shard, (_shard(number, part, folder) for number, part in enumerate(shards))))
        return time.perf_counter() - begun
    finally:
        shutil.rmtree(folder)


def _shard(number: int, stages: list[StageTask], folder: Path) -> ShardTask:
    """A shard of the default size, from chunks that lie side by side."""
    places = [
        (int(Path(stage.stem).name), *place)
        for stage in stages
        for place in read_records(stage.stem)[["offset", "length", "crc32"]].tolist()
    ]
    facts = {"target": 0, "source": 2020, "split": "train", "fold": 0, "sex": "male", "age": 45.0, "site": "torso"}
    columns = {name: [value] * len(places) for name, value in facts.items()}
    keys = [f"ISIC_{number:04d}{sample:04d}" for sample in range(len(places))]
    meta = np.zeros((len(places), 11), dtype=np.float32)
    name = f"train-fold0-{number:06d}"
    return ShardTask(
        folder=str(folder), name=name, stage=str(folder), facts={"key": keys, **columns}, meta=meta, places=places
    )


def _pillow(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        upright = ImageOps.exif_transpose(image).convert("RGB")
        return np.asarray(upright.resize((256, 256), Image.Resampling.LANCZOS))


def _psnr(jpeg: bytes, wanted: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB: 10 log10(255^2 / mean squared error)."""
    error = np.mean((np.asarray(simplejpeg.decode_jpeg(jpeg), dtype=np.float64) - wanted) ** 2)
    return float(10 * np.log10(255**2 / error))


def _edge(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def whole_build(images: int, workers: int) -> dict[str, Any]:
    """Time and peak memory of `python prep/shard.py` on so many synthetic images."""
    with tempfile.TemporaryDirectory(prefix="prep-") as folder:
        data, out = Path(folder, "data"), Path(folder, "set")
        make = [sys.executable, "prep/synthetic.py", "--out", str(data), "--train", str(images * 9 // 10)]
        subprocess.run(
            [*make, "--test", str(images - images * 9 // 10), "--size", "96"], check=True, capture_output=True
        )
        command = [sys.executable, "prep/shard.py", "--isic2020", str(data / "2020"), "--isic2019", str(data / "2019")]
        process = subprocess.Popen([*command, "--out", str(out), "--workers", str(workers)], stdout=subprocess.DEVNULL)
        start, own, below = time.perf_counter(), 0, 0
        while process.poll() is None:
            own = max(own, _memory(process.pid))
            below = max(below, sum(map(_memory, _children(process.pid))))
            time.sleep(0.02)
        if process.returncode:
            raise UserError(f"a build of {images} images failed with exit code {process.returncode}: see above")
        seconds = round(time.perf_counter() - start, 1)
        return {"images": images, "seconds": seconds, "planner_mib": _mib(own), "workers_mib": _mib(below)}


def _mib(size: int) -> float:
    return round(size / 2**20, 1)


def _memory(pid: int) -> int:
    """Bytes of memory of a process, its part of what it shares with others included (Linux)."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    except (OSError, StopIteration):  # it has just ended
        return 0


def _children(pid: int) -> list[int]:
    """The processes below one, without those that are about to start another program and still show our memory."""
    try:
        listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        own = Path(f"/proc/{pid}/cmdline").read_bytes()
        return [int(child) for child in listed if Path(f"/proc/{child}/cmdline").read_bytes() != own]
    except OSError:  # one has just ended: this look does not count
        return []


if __name__ == "__main__":
    run_command(main)
