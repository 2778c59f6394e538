"""What does prep cost on one core, between the images and the shards? On a table of a million made-up images.

    python -m benchmarks.planning

The table has 600,000 patients and lesions, and 100,000 pictures that occur two or three times; the images were staged,
as far as planning reads what is staged. CPU seconds are of this process, the only one; memory is its peak once the
table was made, above what it had before. Linux only.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from benchmarks.record import write
from configs.cli import parse, run_command
from configs.errors import check_ranges, ranged
from configs.prep import PrepConfig
from prep import duplicates, folds
from prep.build import stage_images, stage_tasks
from prep.fingerprint import are_flat, perceptual_hashes
from prep.plan import make_plan
from prep.pool import Workers
from prep.privacy import without_ids
from prep.stage import RECORD
from prep.tables import read_duplicate_pairs

Result = TypeVar("Result")
Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class PlanningConfig:
    """What `python -m benchmarks.planning` is asked for."""

    images: int = ranged(1_000_000, low=1000)
    """Images of the table (1000 or more): for each 10 of them 6 patients and lesions, and 1 picture that has copies."""
    out: str = "benchmarks/results/planning.json"
    """Where the record is written."""

    def __post_init__(self) -> None:
        check_ranges(self)


def main(argv: Sequence[str]) -> None:
    """Parse, measure, record."""
    config = parse(
        PlanningConfig, argv, prog="python -m benchmarks.planning", description=(__doc__ or "").split("\n")[0]
    )
    with tempfile.TemporaryDirectory(prefix="planning-") as folder:
        record = _measured(config.images, Path(folder))
    for name in ("groups", "clusters", "cpu_s", "peak_bytes_an_image"):
        print(f"{name}: {record[name]}")
    write(Path(config.out), record)


def _measured(images: int, stage: Path) -> dict[str, object]:
    pa.set_memory_pool(pa.system_memory_pool())  # as prep/build.py does
    prep, before = PrepConfig(isic2020="."), _memory("VmRSS")
    rows, seconds = table(images), dict[str, float]()
    write_staged(rows, prep, stage)
    Path("/proc/self/clear_refs").write_text("5")  # the peak from now on

    def timed(name: str, work: Callable[[], Result]) -> Result:
        begin = time.process_time()
        found = work()
        seconds[name] = round(time.process_time() - begin, 1)
        return found

    rows = timed("chunks read", lambda: stage_images(rows, prep, stage, Workers(1)))
    pairs = timed("duplicates found", lambda: duplicates.find_duplicates(rows, read_duplicate_pairs(None), stage))
    plan = timed("planned in all", lambda: make_plan(rows, pairs, prep))
    timed("ids numbered", lambda: without_ids(plan.rows))
    peak = _memory("VmHWM")
    verdict = timed("duplicates decided", lambda: duplicates.decide(rows, pairs, prep.duplicates))
    names = duplicates.group_names(rows, np.empty((0, 2), dtype=np.int64))
    fold = timed("folds", lambda: folds.assign_folds(rows, names, folds=prep.folds, seed=prep.seed))
    return {
        "what": "Prep between the images and the shards, one process, a made-up table: CPU seconds, and the peak of "
        "resident memory from the table on, above that before it, in bytes an image",
        "images": images,
        "groups": names.nunique(),
        "clusters": verdict["cluster"].nunique(),
        "dropped": int((verdict["decision"] == "dropped").sum()),
        "fold_sizes": np.bincount(fold).tolist(),
        "cpu_s": seconds,
        "peak_bytes_an_image": round((peak - before) / images),
    }


def table(images: int) -> pd.DataFrame:
    """The rows as they are before any image is read (prep/rows.py)."""
    rng, numbers, groups = np.random.default_rng(0), np.arange(images), images * 6 // 10
    group = rng.permutation(np.concatenate([np.arange(groups), rng.integers(0, groups, images - groups)]))
    recent = group % 2 == 0
    archive = pd.Series(np.array(["BCN_", "HAM_", "MSK4_"])[group % 3], dtype="str")
    rows = pd.DataFrame({"key": _names("ISIC_", numbers), "source": np.where(recent, 2020, 2019).astype(np.int16)})
    rows["split"] = pd.Series("train", rows.index, dtype="str")
    rows["target"] = (rng.random(images) < np.where(recent, 0.02, 0.18)).astype(np.int8)
    rows["diagnosis"] = pd.Series(np.where(rows["target"] == 1, "melanoma", "nevus"), dtype="str")
    rows["patient"] = _names("IP_", group).where(recent)
    rows["lesion"] = (archive + _names("", group)).where(~recent)
    for name, words in (("sex", ["male", "female"]), ("site", ["torso", "head/neck", "lower extremity"])):
        rows[name] = pd.Series(rng.choice(words, images), dtype="str")
    rows["age"] = rng.integers(20, 90, images).astype(np.float64)
    rows["folder"] = pd.Series("isic/ISIC_Training_Input", rows.index, dtype="str")
    rows["file"] = rows["left_out"] = pd.Series(np.nan, rows.index, dtype="str")
    rows["n_images"] = np.int32(2)
    rows["subsource"] = folds.subsource(rows)
    rows["path"] = "isic/ISIC_Training_Input/" + rows["key"] + ".jpg"
    rows["file_bytes"], rows["changed_ns"] = rng.integers(10**4, 10**6, images), numbers
    return rows


def write_staged(rows: pd.DataFrame, config: PrepConfig, stage: Path) -> None:
    """What prep/stage.py leaves of the rows' images, without their pixels."""
    rng, start = np.random.default_rng(1), 0
    shown = np.arange(len(rows))
    copies = rng.permutation(len(rows))[: 3 * (len(rows) // 10)].reshape(3, -1)
    shown[copies[1]] = copies[0]
    shown[copies[2, ::2]] = copies[0, ::2]  # of every second picture there is a third one
    for task in stage_tasks(rows, config, stage):
        numbers = np.arange(start, start := start + len(task.files))
        records, thumbs = np.zeros(len(numbers), dtype=RECORD), _pictures(shown[numbers])
        records["width"], records["height"] = rng.integers(256, 4096, (2, len(numbers)))
        records["hash"], records["flat"] = perceptual_hashes(thumbs), are_flat(thumbs)
        records["sha256"] = np.char.zfill(numbers.astype("S"), 64)
        Path(f"{task.stem}.jpgs").touch()
        Path(f"{task.stem}.thumbs").write_bytes(thumbs.tobytes())
        np.savez(f"{task.stem}.npz", digest=np.array(task.digest()), records=records, reasons=np.array([], dtype="U"))


def _pictures(numbers: Numbers) -> npt.NDArray[np.uint8]:
    """A picture that each number, int64 [N], stands for: 8 x 8 grey squares, uint8 [N, 32, 32]."""
    cells = numbers.astype(np.uint64)[:, None] * np.uint64(64) + np.arange(64, dtype=np.uint64)
    for shift, odd in ((30, 0x9E3779B97F4A7C15), (27, 0xBF58476D1CE4E5B9), (31, 0x94D049BB133111EB)):  # as splitmix64
        cells = np.multiply(cells, np.uint64(odd), dtype=np.uint64)
        cells = np.bitwise_xor(cells, np.right_shift(cells, np.uint64(shift)), dtype=np.uint64)
    squares: npt.NDArray[np.uint8] = (cells // np.uint64(2**56)).astype(np.uint8)
    return squares.reshape(-1, 8, 8).repeat(4, axis=1).repeat(4, axis=2)


def _names(prefix: str, numbers: Numbers) -> pd.Series:
    return prefix + pd.Series(np.char.zfill(numbers.astype(str), 7), dtype="str")


def _memory(name: str) -> int:
    """Bytes of this process: VmRSS, what is in memory, or VmHWM, the most that was."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


if __name__ == "__main__":
    run_command(main)
