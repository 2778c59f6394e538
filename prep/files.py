"""Files that are written whole or not at all, read, flushed and hashed."""

import hashlib
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def written_whole(path: Path, *, fsync: bool = False) -> Iterator[BinaryIO]:
    """A file to write. It takes the name `path` when the block ends normally; otherwise it is removed, and a file that
    had that name before is still there.

    The temporary name holds the process id and a random token, so that no two processes, on one host or several, write
    to the same file. With `fsync`, file and name survive a power cut from the moment this returns. An OSError of the
    write carries `path` as its file name, not the temporary one.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("wb", buffering=2**20) as out:
            yield out
            if fsync:
                out.flush()
                os.fsync(out.fileno())
        temporary.replace(path)
        if fsync and sys.platform != "win32":  # which has no descriptors of folders
            flush(path.parent)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, str(temporary)):
            error.filename = str(path)
        raise


def read_whole(path: str) -> bytes:
    """A file's bytes, without the detours of pathlib and of a buffer, which count at a millisecond an image."""
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123
        return file.read()


def read_part(path: str, offset: int, length: int) -> bytes:
    """`length` bytes of a file, opened each time: a shard needs more of them than a process may have open."""
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123
        file.seek(offset)
        return file.read(length)


def flush(path: Path) -> None:
    """Wait until the disk holds a file's content, or a folder's names: only then do they survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
