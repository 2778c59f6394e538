"""Does a shard set match its manifest? Every finding is a line that names the file and, inside a tar, the sample."""

import hashlib
import io
import json
import tarfile
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow.parquet as pq
import simplejpeg

from prep.files import file_sha256
from prep.folds import leaking_groups
from prep.manifest import SAMPLES, Manifest, ShardEntry, count_rows, labels_digest, read_manifest
from prep.pool import Workers, with_progress

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
        rows = pq.read_table(folder / SAMPLES, columns=[*_COLUMNS, "meta_clinical"]).to_pandas()
        found += _check_rows(rows, manifest)
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
    content = path.read_bytes()
    if len(content) != entry.bytes:
        found.append(f"{entry.file}: {len(content):,} bytes, the manifest says {entry.bytes:,}")
    elif hashlib.sha256(content).hexdigest() != entry.sha256:
        found.append(f"{entry.file}: SHA-256 differs from the manifest")
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
            yield f"{name}: SHA-256 differs from the manifest"
    known = {*manifest.files, *(entry.file for entry in manifest.shards), "manifest.json"}
    for path in sorted(folder.iterdir()):
        if path.name not in known:
            yield f"{path.name}: not in the manifest"


def _check_rows(rows: pd.DataFrame, manifest: Manifest) -> Iterator[str]:
    """The table against the manifest's counts, and the folds."""
    kept = rows[rows["left_out"].isna()]
    if (len(kept), len(rows) - len(kept)) != (manifest.samples, manifest.left_out):
        yield f"{SAMPLES}: {len(kept):,} samples and {len(rows) - len(kept):,} rows left out, unlike the manifest"
    if count_rows(rows) != manifest.counts:
        yield f"{SAMPLES}: counts by source, split, fold and target differ from the manifest"
    if labels_digest(rows) != manifest.labels_sha256:
        yield f"{SAMPLES}: keys, folds and targets differ from the manifest"
    for key in kept["key"][kept["key"].duplicated()]:
        yield f"{SAMPLES}: {key} occurs twice"
    leaking = leaking_groups(rows)
    if leaking and manifest.unsafe is None:
        yield f"{SAMPLES}: {len(leaking)} groups span several folds, first {leaking[0]}"


def _check_samples(content: bytes, samples: pd.DataFrame, size: int) -> Iterator[str]:
    """Names and order of the tar's members, then each sample: CRC-32, a whole decode, its size, its other parts."""
    wanted = [f"{key}.{ending}" for key in samples["key"] for ending in _ENDINGS]
    members = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
            listed = tar.getmembers()
            members = {member.name: member for member in listed}
            if [member.name for member in listed] != wanted:
                yield f"holds {len(listed)} files, not the {len(wanted)} files of its samples in their order"
    except tarfile.TarError as error:
        yield f"not a complete tar: {error}"
    for key, offset, length, crc32, target, meta in samples[_OF_SAMPLE].itertuples(index=False):
        fault = _jpeg_fault(content[offset : offset + length], crc32, size)
        if fault:
            yield f"sample {key} at byte {offset}: {fault}"
        parts = {ending: members.get(f"{key}.{ending}") for ending in _ENDINGS}
        if all(parts.values()):
            texts = {name: content[one.offset_data : one.offset_data + one.size] for name, one in parts.items() if one}
            if not _agrees(texts, key, target, meta):
                yield f"sample {key} at byte {offset}: its json, npy or cls disagrees with {SAMPLES}"


def _jpeg_fault(jpeg: bytes, crc32: int, size: int) -> str | None:
    if zlib.crc32(jpeg) != crc32:
        return "CRC-32 differs"
    try:
        shape = simplejpeg.decode_jpeg(jpeg, strict=True).shape
    except ValueError as error:
        return f"cannot be decoded: {error}"
    return None if shape == (size, size, 3) else f"is {shape[1]} x {shape[0]} pixels, wanted {size} x {size}"


def _agrees(parts: dict[str, bytes], key: str, target: int, meta: npt.NDArray[np.float32]) -> bool:
    try:
        facts = json.loads(parts["json"])
        vector = np.load(io.BytesIO(parts["npy"]))
        same = facts["key"] == key and facts["target"] == target and int(parts["cls"]) == target
        return bool(same and np.array_equal(vector, meta))
    except Exception:  # numpy evaluates the header of an array: damage there may raise anything
        return False
