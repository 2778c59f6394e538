"""A shard set, opened: the columns of its samples, and the JPEG of sample i by random access."""

import errno
import os
import stat
import threading
import zlib
from collections import OrderedDict
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from configs.errors import UserError
from configs.machine import allow_more_files
from configs.schema import MetaKind
from loaders.columns import Columns, write_columns
from loaders.order import Indices
from prep.files import open_regular
from prep.manifest import AGAIN, SAMPLES, ShardEntry, read_manifest

_MOST_OPEN = 512  # shards at a time: half of the open files that a process may usually have


class CorruptSampleError(UserError):
    """The bytes of one sample are not those that prep wrote."""


class ShardSet:
    """The kept samples of a shard set, N of them, numbered as in samples.parquet.

    key: string array [N]; source: int16 [N]; fold: int8 [N], -1 outside training; target: int8 [N], -1 unknown;
    diagnosis: int8 [N], an index into prep.diagnosis.CLASSES; size: edge of the square images in pixels. Columns are
    views of a mapped file. Shards are opened when they are read, and the last 512 of them stay open. Safe to read from
    many threads.

    Nothing is trusted unread: opening checks the manifest, samples.parquet against it, and that each shard is a file of
    its size; reading a sample checks its CRC-32. Raises UserError for the first thing that is wrong.
    """

    def __init__(self, folder: Path, columns: Path | None = None) -> None:
        """columns: what `check_and_write` made of this set in another process of this machine, which still has it."""
        self.folder = folder
        self.manifest = read_manifest(folder)
        self.size = self.manifest.size
        path = columns or check_and_write(folder)
        try:
            self._columns = Columns(path, self.manifest.files[SAMPLES])
        finally:
            if columns is None:
                path.unlink()  # its content stays for as long as it is mapped
        self.key: pa.StringArray = self._columns.array("key")
        self.source: npt.NDArray[np.int16] = self._columns.array("source").to_numpy()
        self.fold: npt.NDArray[np.int8] = self._columns.array("fold").to_numpy()
        self.target: npt.NDArray[np.int8] = self._columns.array("target").to_numpy()
        self.diagnosis: npt.NDArray[np.int8] = self._columns.array("diagnosis").to_numpy()
        files = self._columns.array("shard")
        self._files: list[str] = files.dictionary.to_pylist()
        self._file: npt.NDArray[np.int32] = files.indices.to_numpy()
        self._offset: npt.NDArray[np.int64] = self._columns.array("offset").to_numpy()
        self._length: npt.NDArray[np.int32] = self._columns.array("length").to_numpy()
        self._crc32: npt.NDArray[np.uint32] = self._columns.array("crc32").to_numpy()
        self._entries = {entry.file: entry for entry in self.manifest.shards}
        self._open: OrderedDict[int, _Shard] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.fold)

    @property
    def folds(self) -> int:
        """Number of cross-validation folds."""
        return int(self.fold.max(initial=-1)) + 1

    def meta(self, kind: MetaKind) -> npt.NDArray[np.float32]:
        """The meta vectors of all samples, float32 [N, M], read-only."""
        return self._columns.meta(kind)

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
        return np.flatnonzero(pc.equal(self._columns.array("split"), split).to_numpy(zero_copy_only=False))

    def jpeg(self, index: int) -> bytes:
        """The JPEG bytes of sample `index`, checked against their CRC-32.

        Raises CorruptSampleError, which names shard, key and offset, if the bytes are not those that prep wrote.
        """
        return self.jpegs(np.array([index]))[0]

    def jpegs(self, index: Indices) -> list[bytes]:
        """The same for several samples; the first corrupt one raises."""
        found = []
        columns = (part[index].tolist() for part in (self._file, self._offset, self._length, self._crc32))
        for place, (file, offset, length, crc32) in enumerate(zip(*columns, strict=True)):
            content, reason = b"", "CRC-32 differs"
            try:
                content = self._shard(file).read(offset, length)
            except OSError as error:
                reason = f"cannot be read: {error.strerror}"
            if zlib.crc32(content) != crc32:
                raise CorruptSampleError(
                    f"{self.sample_name(int(index[place]))} at byte {offset} is corrupt ({reason}): copy this shard "
                    "again or build the shard set again"
                )
            found.append(content)
        return found

    def sample_name(self, index: int) -> str:
        """Where a sample lies, for messages: the path of its shard, and its key."""
        return f"{self.folder / self._files[self._file[index]]}: sample {self.key[index]}"

    def close(self) -> None:
        """Close the shards, each when its last reader is done."""
        with self._lock:
            self._open.clear()

    def _shard(self, file: int) -> "_Shard":
        with self._lock:
            if file not in self._open:
                name = self._files[file]
                self._open[file] = _opened(self.folder / name, self._entries[name])
                if len(self._open) > _MOST_OPEN:
                    self._open.popitem(last=False)
            self._open.move_to_end(file)
            return self._open[file]

    def _require_fold(self, fold: int | None) -> None:
        if fold is not None and not 0 <= fold < self.folds:
            raise UserError(f"fold={fold} is out of range: {self.folder} has folds 0 to {self.folds - 1}")


def check_and_write(folder: Path) -> Path:
    """Check samples.parquet and the shards' sizes; see loaders.columns.write_columns for the file that is written."""
    for entry in read_manifest(folder).shards:
        _require_size(folder / entry.file, entry)
    return write_columns(folder)


class _Shard:
    """An open shard, closed when nobody refers to it any more.

    Its bytes are copied, which takes 2 % of a decode's time. A memory map would not, but it ends the process where a
    file is cut short or its disk fails, and its bytes may change between the check and the use.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = open_regular(path)
        self._turn = threading.Lock()

    def read(self, offset: int, length: int) -> bytes:
        """Bytes from `offset` on: fewer than `length` at the end of the file."""
        if hasattr(os, "pread"):
            return os.pread(self._descriptor, length, offset)
        with self._turn:  # Windows
            os.lseek(self._descriptor, offset, os.SEEK_SET)
            return os.read(self._descriptor, length)

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)


def _opened(path: Path, entry: ShardEntry) -> _Shard:
    try:
        _require_size(path, entry)
        return _Shard(path)
    except OSError as error:
        if error.errno == errno.EMFILE:
            if allow_more_files():
                return _opened(path, entry)
            raise UserError(f"{path}: too many shards for this process's open files: raise ulimit -n") from error
        raise UserError(f"shard {path} cannot be read: {error.strerror}; {AGAIN}") from error


def _require_size(path: Path, entry: ShardEntry) -> None:
    """Raise UserError unless `path` is a file of the size that the manifest says."""
    try:
        found = path.stat()
    except OSError as error:
        raise UserError(f"shard {path} cannot be read: {error.strerror}; {AGAIN}") from error
    if not stat.S_ISREG(found.st_mode):
        raise UserError(f"shard {path} is not a regular file: {AGAIN}")
    if found.st_size != entry.bytes:
        raise UserError(f"shard {path} has {found.st_size:,} bytes, the manifest says {entry.bytes:,}: {AGAIN}")
