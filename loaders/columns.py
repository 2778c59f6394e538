"""What every rank needs of samples.parquet: checked by one process, written as one Arrow file, mapped by all of them.

A mapped file takes memory once per node, however many ranks map it, and only where it is read.
"""

import os
import tempfile
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
            self._batch: pa.RecordBatch = pa.ipc.open_file(file).get_batch(0)
        if self._batch.schema.metadata[_SET] != samples_sha256.encode():
            raise UserError(f"{path} holds the samples of another shard set: it was replaced in use, run again")

    def array(self, name: str) -> pa.Array:
        """A column, [N]; split and shard are dictionary arrays."""
        return self._batch[name]

    def meta(self, kind: MetaKind) -> npt.NDArray[np.float32]:
        """The meta vectors, float32 [N, M]."""
        vectors = self._batch[_meta(kind)]
        found: npt.NDArray[np.float32] = vectors.flatten().to_numpy().reshape(len(vectors), -1)
        return found


def _written(folder: Path) -> Path:
    manifest = read_manifest(folder)
    samples = SampleTable(folder, manifest)
    checked = samples.checked(["diagnosis"])
    columns = {name: checked[name].combine_chunks() for name in _PLAIN}
    diagnosis = checked["diagnosis"].combine_chunks()
    columns["diagnosis"] = pa.array(diagnosis_classes(diagnosis, columns["target"].to_numpy()))
    for kind in get_args(MetaKind):
        vectors = samples.meta(kind)
        columns[_meta(kind)] = pa.FixedSizeListArray.from_arrays(vectors.reshape(-1), vectors.shape[1])
    of_set = {_SET: manifest.files[SAMPLES].encode()}
    batch = pa.RecordBatch.from_pydict(columns).replace_schema_metadata(of_set)
    try:
        descriptor, name = tempfile.mkstemp(prefix="melanoma-", suffix=".arrow")
    except OSError as error:
        raise _no_space(tempfile.gettempdir(), batch, error) from error
    path = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as out, pa.ipc.new_file(out, batch.schema) as writer:
            writer.write_batch(batch)
    except BaseException as error:
        path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise _no_space(path, batch, error) from error
        raise
    return path


def _meta(kind: MetaKind) -> str:
    return f"meta_{kind}"


def _no_space(path: Path | str, batch: pa.RecordBatch, error: OSError) -> UserError:
    return UserError(
        f"{path}: the columns of {SAMPLES} could not be written ({error.strerror or error}): they take "
        f"{batch.nbytes / 1e6:,.0f} MB, set TMPDIR to a folder on this machine with more space"
    )
