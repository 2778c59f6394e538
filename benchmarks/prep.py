"""How fast is prep? What it does to each image, beside a bare loop that does only what must be done.

    python -m benchmarks.prep --isic ../isic-sample

Prep reads, hashes, decodes, encodes, stages and packs originals of 512 px; the bare loop reads, decodes at the same
scale and encodes them, on as many processes. They take turns.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import simplejpeg
from PIL import Image

from benchmarks.record import write
from benchmarks.rounds import in_turns, ratios, spread
from configs.cli import parse, run_command
from configs.errors import UserError, check
from configs.machine import usable_cores
from configs.prep import PrepConfig
from prep.metadata import FEATURES
from prep.pack import ShardTask, pack_shard
from prep.pool import Workers
from prep.stage import CHUNK, Encoding, StageTask, read_records, stage_chunk

_IMAGES = 6144  # of a round: the ones that are there, several times
_CHUNKS = PrepConfig(isic2020=".").samples_per_shard // CHUNK  # of a shard
_ENCODING = Encoding(size=256, fit="squash", quality=96, subsampling="4:2:0")


@dataclass(frozen=True, kw_only=True)
class PrepBenchConfig:
    """What `python -m benchmarks.prep` is asked for."""

    isic: str = "../shared/data/isic-sample"
    """Folder with 512 px images in 2020/jpeg/train."""
    out: str = "benchmarks/results/prep.json"
    """Where the record is written."""
    rounds: int = 7
    """Rounds (1 or more)."""

    def __post_init__(self) -> None:
        check(self.rounds >= 1, "rounds", self.rounds, "give 1 or more")


def main(argv: Sequence[str]) -> None:
    """Parse, measure, record."""
    config = parse(PrepBenchConfig, argv, prog="python -m benchmarks.prep", description=(__doc__ or "").split("\n")[0])
    found = [path for path in sorted(Path(config.isic, "2020/jpeg/train").iterdir()) if _edges(path) == (512, 512)]
    if not found:
        raise UserError(f"--isic {config.isic}: no images of 512 x 512 pixels in 2020/jpeg/train")
    paths = [str(found[number % len(found)]) for number in range(_IMAGES)]
    parts = [paths[start : start + CHUNK] for start in range(0, _IMAGES, CHUNK)]
    workers = usable_cores()
    with ProcessPoolExecutor(workers) as pool, Workers(workers) as prep:
        bare, ours = (lambda: list(pool.map(_bare, parts))), (lambda: _prep(parts, prep))
        turns = {"bare": partial(_rate, bare), "prep": partial(_rate, ours)}
        in_turns(turns, 1)  # warm
        rates = in_turns(turns, config.rounds)
    record = {
        "what": "Real originals of 512 x 512 px, again and again to 256 px, JPEG quality 96: images/s of prep and of a "
        "loop that only reads, decodes and encodes, on as many processes",
        "rounds": config.rounds,
        "workers": workers,
        "different_images": len(found),
        "images_per_s": {name: spread(values) for name, values in rates.items()},
        "ratio": spread(ratios(rates["prep"], rates["bare"])),
    }
    write(Path(config.out), record)


def _rate(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return _IMAGES / (time.perf_counter() - begin)


def _bare(paths: list[str]) -> None:
    """Nothing but what must be: bytes, pixels at half scale in one reused buffer, bytes."""
    buffer = np.empty((256, 256, 3), dtype=np.uint8)
    for path in paths:
        pixels = simplejpeg.decode_jpeg(Path(path).read_bytes(), min_height=256, min_width=256, buffer=buffer)
        simplejpeg.encode_jpeg(pixels, quality=_ENCODING.quality, colorsubsampling="420")


def _prep(parts: list[list[str]], workers: Workers) -> None:
    """Both passes over the images, into a folder that is then removed."""
    with tempfile.TemporaryDirectory(prefix="prep-") as folder:
        stages = [
            StageTask(stem=f"{folder}/{number:06d}", encoding=_ENCODING, files=tuple((path, 0, 0) for path in part))
            for number, part in enumerate(parts)
        ]
        list(workers.in_order(stage_chunk, stages))
        groups = [range(len(parts))[first : first + _CHUNKS] for first in range(0, len(parts), _CHUNKS)]
        list(workers.in_order(pack_shard, (_shard(group, folder) for group in groups)))


def _shard(chunks: range, folder: str) -> ShardTask:
    """A shard of the default size, from chunks that were staged."""
    fields = ["offset", "length", "crc32"]
    records = [(chunk, read_records(f"{folder}/{chunk:06d}")[fields].tolist()) for chunk in chunks]
    places = [(chunk, *place) for chunk, found in records for place in found]
    facts = {"target": 0, "source": 2020, "split": "train", "fold": 0, "sex": "male", "age": 45.0, "site": "torso"}
    columns = {name: [value] * len(places) for name, value in facts.items()}
    columns["key"] = [f"ISIC_{chunks.start:04d}{sample:04d}" for sample in range(len(places))]
    meta, name = np.zeros((len(places), len(FEATURES["clinical"])), dtype=np.float32), f"train-fold0-{chunks.start:06d}"
    return ShardTask(folder=folder, name=name, stage=folder, facts=columns, meta=meta, places=places)


def _edges(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


if __name__ == "__main__":
    run_command(main)
