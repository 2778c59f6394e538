"""A shard set, opened: the columns of its samples, and the JPEG of sample i by random access."""

import errno
import mmap
import threading
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from configs.errors import UserError
from configs.machine import allow_more_files
from configs.schema import MetaKind
from loaders.order import Indices
from prep.diagnosis import diagnosis_classes
from prep.manifest import SAMPLES, read_manifest

_COLUMNS = ["key", "shard", "offset", "length", "crc32", "source", "split", "fold", "target", "diagnosis"]
_REPEATING = ["shard", "split", "diagnosis"]  # few distinct values: read as dictionary arrays


class CorruptSampleError(UserError):
    """The bytes of one sample are not those that prep wrote."""


class ShardSet:
    """The kept samples of a shard set, N of them, numbered as in samples.parquet.

    key: string array [N]; source: int16 [N]; fold: int8 [N], -1 outside training; target: int8 [N], -1 unknown;
    diagnosis: int8 [N], an index into prep.diagnosis.CLASSES; size: edge of the square images in pixels. Of
    samples.parquet only the needed columns, and the meta vectors that are asked for, are kept in memory; shards are
    mapped when they are first read. Safe to read from many threads.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = read_manifest(folder)
        self.size = self.manifest.size
        table = _read_table(folder, _COLUMNS).slice(0, self.manifest.samples)
        self.key: pa.StringArray = table["key"].combine_chunks()
        self.source: npt.NDArray[np.int16] = table["source"].to_numpy()
        self.fold: npt.NDArray[np.int8] = table["fold"].to_numpy()
        self.target: npt.NDArray[np.int8] = table["target"].to_numpy()
        self.diagnosis = diagnosis_classes(table["diagnosis"].combine_chunks(), self.target)
        self._split: pa.DictionaryArray = table["split"].combine_chunks()
        self._meta: dict[MetaKind, npt.NDArray[np.float32]] = {}
        files = table["shard"].combine_chunks()
        self._files: list[str] = files.dictionary.to_pylist()
        self._file: npt.NDArray[np.int32] = files.indices.to_numpy()
        self._offset: npt.NDArray[np.int64] = table["offset"].to_numpy()
        self._length: npt.NDArray[np.int32] = table["length"].to_numpy()
        self._crc32: npt.NDArray[np.uint32] = table["crc32"].to_numpy()
        del table, files
        pa.default_memory_pool().release_unused()  # reading takes twice the memory of what is kept
        self._contents: dict[int, memoryview] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.fold)

    @property
    def folds(self) -> int:
        """Number of cross-validation folds."""
        return int(self.fold.max(initial=-1)) + 1

    def meta(self, kind: MetaKind) -> npt.NDArray[np.float32]:
        """The meta vectors of all samples, float32 [N, M]; read at the first call for `kind`, then kept."""
        with self._lock:
            if kind not in self._meta:
                vectors = _read_table(self.folder, [f"meta_{kind}"])[0].slice(0, len(self)).combine_chunks()
                self._meta[kind] = vectors.flatten().to_numpy().reshape(len(self), -1)
                pa.default_memory_pool().release_unused()
            return self._meta[kind]

    def train_rows(self, fold: int | None) -> Indices:
        """Row numbers of the training samples outside `fold`, of all of them if it is None.

        Raises UserError if the set has no such fold.
        """
        self._require_fold(fold)
        # To numpy no number equals None.
        return np.flatnonzero((self.fold >= 0) & (self.fold != fold))

    def fold_rows(self, fold: int | None) -> Indices:
        """Row numbers of the training samples held out in `fold`, none if it is None.

        Raises UserError if the set has no such fold.
        """
        self._require_fold(fold)
        return np.flatnonzero(self.fold == fold)

    def split_rows(self, split: str) -> Indices:
        """Row numbers of the samples of a split: train, test or extra."""
        return np.flatnonzero(pc.equal(self._split, split).to_numpy(zero_copy_only=False))

    def jpeg(self, index: int) -> memoryview:
        """The JPEG bytes of sample `index`, checked against their CRC-32.

        Raises CorruptSampleError, which names shard, key and offset, if the bytes are not those that prep wrote.
        """
        return self.jpegs(np.array([index]))[0]

    def jpegs(self, index: Indices) -> list[memoryview]:
        """The same for several samples; the first corrupt one raises."""
        found = []
        columns = (part[index].tolist() for part in (self._file, self._offset, self._length, self._crc32))
        for place, (file, offset, length, crc32) in enumerate(zip(*columns, strict=True)):
            content = self._content(file)[offset : offset + length]
            if zlib.crc32(content) != crc32:
                raise CorruptSampleError(
                    f"{self.folder / self._files[file]}: sample {self.key[int(index[place])]} at byte {offset} is "
                    "corrupt (CRC-32 differs): copy this shard again or build the shard set again"
                )
            found.append(content)
        return found

    def close(self) -> None:
        """Drop the memory maps; the operating system unmaps each when its last reader is gone."""
        with self._lock:
            self._contents.clear()

    def _content(self, file: int) -> memoryview:
        known = self._contents.get(file)
        if known is not None:
            return known
        with self._lock:
            if file not in self._contents:
                self._contents[file] = memoryview(_mapped(self.folder / self._files[file]))
            return self._contents[file]

    def _require_fold(self, fold: int | None) -> None:
        if fold is not None and not 0 <= fold < self.folds:
            raise UserError(f"fold={fold} is out of range: {self.folder} has folds 0 to {self.folds - 1}")


def _mapped(path: Path) -> mmap.mmap:
    try:
        with path.open("rb") as opened:
            return mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno == errno.EMFILE:  # each map holds a descriptor
            if allow_more_files():
                return _mapped(path)
            raise UserError(f"{path}: too many shards for this process's open files: raise ulimit -n") from error
        raise UserError(f"shard {path} cannot be read: {error}; copy the shard set again") from error


def _read_table(folder: Path, columns: list[str]) -> pa.Table:
    path = folder / SAMPLES
    try:
        return pq.read_table(path, columns=columns, read_dictionary=_REPEATING)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path} cannot be read: {error}; build the shard set again") from error
