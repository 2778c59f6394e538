"""Files that are written whole or not at all, flushed and hashed, and folders that one process at a time builds in."""

import hashlib
import os
import secrets
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import BinaryIO

from configs.errors import UserError


@contextmanager
def written_whole(path: Path, *, fsync: bool = False) -> Iterator[BinaryIO]:
    """A file to write. It takes the name `path` when the block ends normally; otherwise it is removed, and a file that
    had that name before is still there.

    With `fsync`, file and name survive a power cut from the moment this returns. An OSError of the write carries `path`
    as its file name, not the temporary one, which no two processes, on one host or several, share.
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


def read_bytes(path: str | Path, offset: int = 0, length: int = -1) -> bytes:
    """`length` bytes of a file from `offset` on, or all of them, without a buffer's detour, which counts at a
    millisecond per image."""
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
