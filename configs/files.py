"""Files that are written whole or not at all, and flushed to the disk."""

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


def flush(path: Path) -> None:
    """Wait until the disk holds a file's content, or a folder's names: only then do they survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
