"""The first pass over all images: cut the rows into chunks (prep/stage.py), stage them, and note what was found."""

import os
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from prep.images import THUMB, Pixels
from prep.pool import Workers, with_progress
from prep.stage import CHUNK, Encoding, StageTask, read_records, read_thumbs, stage_chunk

CANNOT_BE_USED = "cannot be used: "
"""What `left_out` says before the reason for which an image was rejected."""


def stage_images(rows: pd.DataFrame, encoding: Encoding, folder: Path, workers: Workers) -> pd.DataFrame:
    """Read, decode and encode every image that the rows have into chunks below `folder`.

    Returns the rows with what was found: chunk, staged_offset, length, crc32, width, height, copied, hash, flat,
    sha256, and left_out where an image cannot be used.
    """
    files = np.flatnonzero(rows["left_out"].isna())
    staged = workers.in_order(stage_chunk, _tasks(rows.iloc[files], encoding, folder))
    for _ in with_progress(staged, "reading", len(files), lambda count: count):
        pass
    records = np.concatenate([read_records(_stem(folder, number)) for number in range(-(-len(files) // CHUNK))])
    assert len(records) == len(files)
    rows = rows.assign(chunk=-1, hash=np.uint64(0), flat=True, copied=False, staged_offset=-1)
    rows = rows.assign(length=np.int32(0), crc32=np.uint32(0), width=np.int32(0), height=np.int32(0))
    rows["sha256"] = pd.Series(np.nan, rows.index, dtype="str")
    rows.loc[files, "chunk"] = np.arange(len(files)) // CHUNK
    rows.loc[files, "staged_offset"] = records["offset"]
    for name in ("length", "crc32", "width", "height", "copied", "hash", "flat"):
        rows.loc[files, name] = records[name]
    good = records["reason"] == ""
    rows.loc[files[good], "sha256"] = records["sha256"][good].astype(str)
    rows.loc[files[~good], "left_out"] = [CANNOT_BE_USED + reason for reason in records["reason"][~good]]
    return rows


def staged_thumbs(rows: pd.DataFrame, folder: Path) -> Callable[[npt.NDArray[np.int64]], Pixels]:
    """A function from row numbers, int64 [n], to the thumbnails of these rows, uint8 [n, 32, 32]."""
    chunk, place = rows["chunk"].to_numpy(), rows.groupby("chunk").cumcount().to_numpy()
    thumbs_of = lru_cache(maxsize=16)(lambda number: read_thumbs(_stem(folder, number)))

    def thumbs(numbers: npt.NDArray[np.int64]) -> Pixels:
        pictures = [thumbs_of(chunk[row])[place[row]] for row in numbers]
        return np.array(pictures, dtype=np.uint8).reshape(-1, THUMB, THUMB)

    return thumbs


def _tasks(files: pd.DataFrame, encoding: Encoding, folder: Path) -> Iterator[StageTask]:
    """Chunks of the rows that have an image, in the order of the tables."""
    for number, start in enumerate(range(0, len(files), CHUNK)):
        part = files.iloc[start : start + CHUNK]
        described = tuple(zip(part["path"], part["file_bytes"], part["changed_ns"], strict=True))
        yield StageTask(stem=_stem(folder, number), encoding=encoding, files=described)


def _stem(folder: Path, number: int) -> str:
    return f"{folder}{os.sep}{number:06d}"
