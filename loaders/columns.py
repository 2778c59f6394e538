"""What every rank needs of samples.parquet: checked by one process, written as one Arrow file, mapped by all of them.

A mapped file takes memory once per node, however many ranks map it, and only where it is read.
"""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from configs.errors import UserError
from configs.schema import MetaKind
from prep.diagnosis import diagnosis_classes
from prep.manifest import SAMPLES, read_manifest
from prep.samples import SampleTable

_PLAIN = ["key", "split", "source", "fold", "target", "shard", "offset", "length", "crc32"]
_SET = b"samples_sha256"


def write_columns(folder: Path) -> Path:
    """Check samples.parquet of the set in `folder` and write what is needed of it; the caller removes the file.

    One row per kept sample: columns of samples.parquet as they are, diagnosis int8 (an index into
    prep.diagnosis.CLASSES), and the meta vectors. The file is private to the user, in the folder for temporary files
    (TMPDIR). Raises UserError for the first thing that is wrong with samples.parquet, or if there is no space.
    """
    usual = pa.default_memory_pool()
    pa.set_memory_pool(pa.system_memory_pool())  # which gives all back of what reading takes, several times the file
    try:
        return _written(folder)
    finally:
        pa.default_memory_pool().release_unused()
        pa.set_memory_pool(usual)
        usual.release_unused()


class Columns:
    """The file that `write_columns` wrote, mapped: every array is a read-only view of it, of N samples."""

    def __init__(self, path: Path, samples_sha256: str) -> None:
        """Raises UserError if `path` was not written for the samples.parquet with this SHA-256."""
        with pa.memory_map(str(path)) as file:
            self._plain = _first_batch(file)
            if self._plain.schema.metadata[_SET] != samples_sha256.encode():
                raise UserError(f"{path} holds the samples of another shard set: it was replaced in use, run again")
            self._meta = {kind: _first_batch(file)[kind] for kind in get_args(MetaKind)}

    def array(self, name: str) -> pa.Array:
        """A column, [N]; split and shard are dictionary arrays."""
        return self._plain[name]

    def meta(self, kind: MetaKind) -> npt.NDArray[np.float32]:
        """The meta vectors, float32 [N, M]."""
        vectors = self._meta[kind]
        found: npt.NDArray[np.float32] = vectors.flatten().to_numpy().reshape(len(vectors), -1)
        return found


def _first_batch(file: pa.NativeFile) -> pa.RecordBatch:
    """That of the stream that begins at the place where `file` is, which is then behind it."""
    (batch,) = pa.ipc.open_stream(file)
    return batch


def _written(folder: Path) -> Path:
    try:
        descriptor, name = tempfile.mkstemp(prefix="melanoma-", suffix=".arrow")
    except OSError as error:
        raise _no_space(tempfile.gettempdir(), error) from error
    path = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as out:
            for batch in _batches(folder):
                with pa.ipc.new_stream(out, batch.schema) as writer:
                    writer.write_batch(batch)
                del batch
                pa.default_memory_pool().release_unused()  # before the next one is read
    except BaseException as error:
        path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise _no_space(path, error) from error
        raise
    return path


def _batches(folder: Path) -> Iterator[pa.RecordBatch]:
    """The plain columns, then each kind of meta vectors: a stream each, so that one at a time is held."""
    manifest = read_manifest(folder)
    samples = SampleTable(folder, manifest)
    checked = samples.checked(["diagnosis"])
    columns = {name: checked[name].combine_chunks() for name in _PLAIN}
    diagnosis = checked["diagnosis"].combine_chunks()
    del checked
    columns["diagnosis"] = pa.array(diagnosis_classes(diagnosis, columns["target"].to_numpy()))
    of_set = {_SET: manifest.files[SAMPLES].encode()}
    yield pa.RecordBatch.from_pydict(columns).replace_schema_metadata(of_set)
    del columns, diagnosis
    for kind in get_args(MetaKind):
        vectors = samples.meta(kind)
        column = pa.FixedSizeListArray.from_arrays(vectors.reshape(-1), vectors.shape[1])
        yield pa.RecordBatch.from_pydict({kind: column})
        del vectors, column


def _no_space(path: Path | str, error: OSError) -> UserError:
    return UserError(
        f"{path}: the columns of {SAMPLES} could not be written ({error.strerror or error}): they take "
        "some 140 bytes a sample, set TMPDIR to a folder on this machine with more space"
    )
