"""Files read without a buffer and hashed, and folders that one process at a time builds in."""

import errno
import hashlib
import os
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

from configs.errors import UserError


def read_bytes(path: str | Path, offset: int = 0, length: int = -1) -> bytes:
    """`length` bytes of a file from `offset` on, or all of them, without a buffer's detour, which counts at a
    millisecond per image."""
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123
        file.seek(offset)
        return file.read(length)


class OpenFiles:
    """Parts of many files, of which the `most` read last stay open: an open of each part counts on a network."""

    def __init__(self, most: int = 512) -> None:
        self._most = most
        self._open: dict[str, int] = {}  # descriptors, the one used last at the end

    def read(self, path: str, offset: int, length: int) -> bytes:
        """`length` bytes of a file from `offset` on."""
        try:
            return self._read(path, offset, length)
        except OSError as error:
            if error.errno != errno.ESTALE:  # on a network, the file that was open has been replaced
                raise
            self._close(path)
            return self._read(path, offset, length)

    def close(self) -> None:
        """Close all of them."""
        for path in list(self._open):
            self._close(path)

    def _read(self, path: str, offset: int, length: int) -> bytes:
        descriptor = self._open.pop(path, None)
        if descriptor is None:
            descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
            if len(self._open) == self._most:
                self._close(next(iter(self._open)))
        self._open[path] = descriptor
        os.lseek(descriptor, offset, os.SEEK_SET)
        return os.read(descriptor, length)

    def _close(self, path: str) -> None:
        os.close(self._open.pop(path))


def open_regular(path: str | Path) -> int:
    """A descriptor to read a file with. Raises OSError, at once, for what is no file: a pipe would be waited for, and a
    device may never end."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return descriptor


def read_regular(path: str | Path, most: int) -> bytes:
    """A whole file of at most `most` bytes. Raises OSError, also for what is no regular file: a FIFO would wait for a
    writer, and a device such as /dev/zero never end."""
    status = os.stat(path)  # noqa: PTH116
    if stat.S_ISDIR(status.st_mode):
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "not a regular file")
    if status.st_size > most:
        raise OSError(errno.EFBIG, f"{status.st_size:,} bytes are more than the pixels accepted can take")
    return read_bytes(path)


def file_sha256(path: Path) -> str:
    """SHA-256 of a regular file, read in pieces."""
    with open(open_regular(path), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def only_builder(folder: Path, ours: Sequence[str]) -> Iterator[None]:
    """Make `folder` and lock it for this process; `ours` are the patterns of the file names that may be in it.

    Raises UserError where another process holds the lock, or the folder has a file of another name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    strange = sorted(path.name for path in folder.iterdir() if not any(fnmatch(path.name, name) for name in ours))
    if strange:
        raise UserError(
            f"{folder} holds {strange[0]}, which is not part of a shard set: move it away or choose another --out"
        )
    if sys.platform == "win32":  # no locks on folders there
        yield
        return
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"{folder}: another process is building there; wait for it or choose another --out"
            ) from error
        yield
    finally:
        os.close(descriptor)
