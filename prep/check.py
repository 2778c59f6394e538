"""Does a shard set match its manifest? Every finding is a line that names the file and, inside a tar, the sample."""

import hashlib
import io
import json
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from tarfile import BLOCKSIZE

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow.parquet as pq
import simplejpeg

from configs.errors import UserError
from prep.files import file_sha256, read_bytes
from prep.folds import leaking_groups
from prep.manifest import SAMPLES, Manifest, ShardEntry, read_manifest
from prep.metadata import FEATURES
from prep.pack import tar_header
from prep.pool import Workers, with_progress
from prep.samples import SampleTable

_COLUMNS = ["key", "shard", "offset", "length", "crc32", "source", "split", "fold", "target", "group", "left_out"]
_OF_SAMPLE = ["key", "offset", "length", "crc32", "target", "meta_clinical"]
_ENDINGS = ("jpg", "json", "npy", "cls")
# A shard and its rows of samples.parquet, or None to check the file's hash alone.
_Task = tuple[ShardEntry, pd.DataFrame | None]


def check_set(folder: Path, *, quick: bool, workers: int) -> list[str]:
    """A line for everything that is wrong with the shard set in `folder`. Raises UserError where it has no manifest."""
    manifest = read_manifest(folder)
    found = list(_check_files(folder, manifest))
    rows = None
    if not quick and not any(line.startswith(SAMPLES) for line in found):
        rows, faults = _read_rows(folder, manifest)
        found += faults
    with Workers(workers) as pool:
        checked = pool.in_order(partial(check_shard, folder, manifest.size), _tasks(manifest, rows))
        for lines, _ in with_progress(checked, "checking", manifest.samples, lambda result: result[1]):
            found += lines
    return found


def check_shard(folder: Path, size: int, task: _Task) -> tuple[list[str], int]:
    """What is wrong with one shard of images of `size` pixels, and how many samples it should hold."""
    entry, samples = task
    path = folder / entry.file
    if not path.is_file():
        return [f"{entry.file}: missing"], entry.samples
    found = []
    size_found = path.stat().st_size
    content = read_bytes(path, length=min(size_found, entry.bytes))
    if size_found != entry.bytes:
        found.append(f"{entry.file}: {size_found:,} bytes, the manifest says {entry.bytes:,}")
    elif hashlib.sha256(content).hexdigest() != entry.sha256:
        found.append(f"{entry.file}: SHA-256 is not the one in manifest.json")
    if samples is not None:
        found += [f"{entry.file}: {line}" for line in _check_samples(content, samples, size)]
    return found, entry.samples


def _tasks(manifest: Manifest, rows: pd.DataFrame | None) -> Iterator[_Task]:
    parts = {} if rows is None else dict(list(rows.groupby("shard", sort=False)[_OF_SAMPLE]))
    for entry in manifest.shards:
        yield entry, None if rows is None else parts.get(entry.file, rows.head(0))


def _check_files(folder: Path, manifest: Manifest) -> Iterator[str]:
    for name, wanted in sorted(manifest.files.items()):
        if not (folder / name).is_file():
            yield f"{name}: missing"
        elif file_sha256(folder / name) != wanted:
            yield f"{name}: SHA-256 is not the one in manifest.json"
    known = {*manifest.files, *(entry.file for entry in manifest.shards), "manifest.json"}
    for path in sorted(folder.iterdir()):
        if path.name not in known:
            yield f"{path.name}: not in the manifest"


def _read_rows(folder: Path, manifest: Manifest) -> tuple[pd.DataFrame | None, list[str]]:
    """The rows, or None where the table cannot be opened as a set's; and what is wrong with them."""
    found: list[str] = []
    try:
        table = SampleTable(folder, manifest)
        rows = pq.read_table(folder / SAMPLES, columns=[*_COLUMNS, "meta_clinical"]).to_pandas()
        found += _check_rows(rows, manifest)
        table.checked([])
        for kind in FEATURES:
            table.meta(kind)
    except UserError as error:
        return None, [*found, str(error).removeprefix(f"{folder}{os.sep}")]
    return rows, found


def _check_rows(rows: pd.DataFrame, manifest: Manifest) -> Iterator[str]:
    """What opening a set does not look at: keys that occur twice, and groups in several folds."""
    kept = rows[rows["left_out"].isna()]
    for key in kept["key"][kept["key"].duplicated()]:
        yield f"{SAMPLES}: {key} occurs twice"
    leaking = leaking_groups(rows)
    if leaking and manifest.unsafe is None:
        yield f"{SAMPLES}: {len(leaking)} groups span several folds, first {leaking[0]}"


def _check_samples(content: bytes, samples: pd.DataFrame, size: int) -> Iterator[str]:
    """Names and order of the tar's members, then each sample: CRC-32, a whole decode, its size, its other parts."""
    members, fault = _members(content, [f"{key}.{ending}" for key in samples["key"] for ending in _ENDINGS])
    if fault:
        yield fault
    for key, offset, length, crc32, target, meta in samples[_OF_SAMPLE].itertuples(index=False):
        fault = _jpeg_fault(content[max(0, offset) : max(0, offset + length)], crc32, size)
        if fault:
            yield f"sample {key} at byte {offset}: {fault}"
        parts = {ending: members.get(f"{key}.{ending}") for ending in _ENDINGS}
        known = {ending: part for ending, part in parts.items() if part is not None}
        if len(known) == len(parts) and not _agrees(known, key, target, meta):
            yield f"sample {key} at byte {offset}: its json, npy or cls disagrees with {SAMPLES}"


def _members(content: bytes, names: Sequence[str]) -> tuple[dict[str, bytes], str | None]:
    """The files of a tar that should be as `prep/pack.py` writes it, by name; and what is wrong with it.

    Reading ends at the first header that is not the one of the next name, so no header can mislead or stall it.
    """
    found: dict[str, bytes] = {}
    place = 0
    for name in names:
        header = content[place : place + BLOCKSIZE]
        digits = header[124:135]
        if not digits.isdigit() or digits.strip(b"01234567") or header != tar_header(name, int(digits, 8)):
            return found, f"not a complete tar: byte {place:,} does not begin {name}"
        start, length = place + BLOCKSIZE, int(digits, 8)
        found[name] = content[start : start + length]
        place = start + length + -length % BLOCKSIZE
    end = content[place:]
    if len(end) < 2 * BLOCKSIZE or end.strip(b"\0"):
        return found, f"not a complete tar: after its {len(names)} files it does not end"
    return found, None


def _jpeg_fault(jpeg: bytes, crc32: int, size: int) -> str | None:
    if zlib.crc32(jpeg) != crc32:
        return "CRC-32 differs"
    try:
        height, width, *_ = simplejpeg.decode_jpeg_header(jpeg)
        if (height, width) != (size, size):  # told before such a picture is decoded, however large it is
            return f"is {width} x {height} pixels, wanted {size} x {size}"
        simplejpeg.decode_jpeg(jpeg, strict=True)
    except ValueError as error:
        return f"cannot be decoded: {error}"
    return None


def _agrees(parts: Mapping[str, bytes], key: str, target: int, meta: npt.NDArray[np.float32]) -> bool:
    vector = io.BytesIO()
    np.save(vector, meta)
    try:
        facts = json.loads(parts["json"])
        same = facts["key"] == key and facts["target"] == target and int(parts["cls"]) == target
    except (ValueError, KeyError, TypeError, RecursionError):
        return False
    return bool(same and parts["npy"] == vector.getvalue())
