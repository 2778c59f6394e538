"""Files that are there whole or not at all."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """A file to write; it gets the name `path` when the block ends well, else it is removed.

    Written under a name of this process's own, so that a process that outlived its parent never writes into ours.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb", buffering=2**20) as out:
            yield out
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
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
    """Wait until the disk has the file: only then does it outlive a power cut."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
