"""Files that are written whole or not at all, and flushed to the disk; and a lock that ends with its process."""

import os
import secrets
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from configs.errors import UserError

_LOCK_SECONDS = 2.0  # the kernel frees the memory of a process that was killed before it frees its locks


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


@contextmanager
def only_writer(path: Path) -> Iterator[str | None]:
    """Hold the lock file `path`, which says who writes in its folder; the kernel takes the lock from a process that
    ends, however it ends, and the file stays. Gives a warning for the user where there are no locks, else None.

    Raises UserError where another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        warning = None
        try:
            _lock(file)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read(200).decode(errors="replace").strip() or "unknown"
            raise UserError(
                f"{path.parent}: another process ({holder}) trains this member; wait until it ends, or choose another "
                "--out"
            ) from error
        except (OSError, ImportError) as error:
            warning = (
                f"warning: {path} cannot be locked ({getattr(error, 'strerror', error)}): make sure that no other "
                "process writes there"
            )
        file.truncate(0)
        file.write(f"pid {os.getpid()} on {socket.gethostname()}\n".encode())
        file.flush()
        yield warning
        file.truncate(0)


def _lock(file: BinaryIO) -> None:
    import fcntl  # not on Windows

    for _ in range(int(_LOCK_SECONDS / 0.1)):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            time.sleep(0.1)
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
