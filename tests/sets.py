"""Shard sets that differ from a sound one in one thing, with a manifest whose hashes fit."""

import errno
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from prep.files import file_sha256
from prep.manifest import SAMPLES, count_rows, labels_digest, read_manifest, write_manifest


def linked_set(source: Path, out: Path) -> Path:
    """A folder of links to the files of a set: to change one, replace its link."""
    out.mkdir()
    for path in source.iterdir():
        (out / path.name).symlink_to(path)
    return out


def replace_file(path: Path, content: bytes) -> None:
    """Put another file in the place of a link."""
    path.unlink()
    path.write_bytes(content)


def change_manifest(folder: Path, **fields: Any) -> None:
    """Write the manifest again with other values, and the digest of these."""
    manifest = replace(read_manifest(folder), **fields)
    (folder / "manifest.json").unlink()
    write_manifest(manifest, folder)


def change_samples(folder: Path, change: Callable[[pa.Table], pa.Table], *, relabel: bool = False) -> None:
    """Write another samples.parquet, and its hash into the manifest; with `relabel` also its counts and labels."""
    table = change(pq.read_table(folder / SAMPLES))
    (folder / SAMPLES).unlink()
    pq.write_table(table, folder / SAMPLES, row_group_size=7)
    manifest = read_manifest(folder)
    kept = table.slice(0, manifest.samples)
    labels = {"counts": count_rows(kept), "labels_sha256": labels_digest(kept)} if relabel else {}
    change_manifest(folder, files={**manifest.files, SAMPLES: file_sha256(folder / SAMPLES)}, **labels)


def with_value(table: pa.Table, column: str, row: int, value: object) -> pa.Table:
    """The table with one other value."""
    values = table[column].to_pylist()
    values[row] = value
    place = table.schema.get_field_index(column)
    return table.set_column(place, table.schema.field(column), pa.array(values, table.schema.field(column).type))


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """Fail where the block waits longer, for example for the other end of a pipe."""

    def end(_: int, __: FrameType | None) -> None:
        raise TimeoutError(errno.ETIMEDOUT, f"hung for {seconds} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
