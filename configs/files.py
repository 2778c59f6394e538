"""Files that are written whole or not at all, and flushed to the disk; what a killed writer left is removed."""

import os
import re
import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

_TEMPORARY = re.compile(r"\.\d+\.[0-9a-f]{8}\.tmp")
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
_YOUNG, _OLD = 2, 24 * 3600  # seconds: its writer may not have locked it yet; nobody writes to it any more


@contextmanager
def written_whole(path: Path, *, fsync: bool = False, private: bool = False) -> Iterator[BinaryIO]:
    """A file to write. It takes the name `path` when the block ends normally; otherwise it is removed, and a file that
    had that name before is still there. What writers of `path` that were killed left behind is removed first.

    With `fsync`, file and name survive a power cut from the moment this returns; with `private`, only the user may read
    the file. An OSError of the write carries `path` as its file name, not the temporary one, which no two processes, on
    one host or several, share.
    """
    _clear_leftovers(path)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        descriptor = os.open(str(temporary), _NEW, 0o600 if private else 0o666)
        with open(descriptor, "wb", buffering=2**20) as out:  # noqa: PTH123
            _lock(descriptor)  # until it is closed, also by the end of this process
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
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        os.close(descriptor)


def _clear_leftovers(path: Path) -> None:
    """Remove the temporary files of `path` whose writer is gone."""
    with suppress(OSError):  # a folder that cannot be listed, a leftover of another user
        for entry in os.scandir(path.parent):
            ending = entry.name.removeprefix(path.name)
            if ending != entry.name and _TEMPORARY.fullmatch(ending) and _is_abandoned(Path(entry)):
                Path(entry).unlink(missing_ok=True)


def _is_abandoned(temporary: Path) -> bool:
    """Whether no process on this host, and as far as the file system knows locks none elsewhere, writes the file."""
    age = time.time() - temporary.stat().st_mtime
    if age < _YOUNG:
        return False
    descriptor = os.open(temporary, os.O_RDWR)
    try:
        return age > _OLD or _lock(descriptor)
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Lock an open file for this process unless another one has; False also where there are no such locks."""
    if sys.platform == "win32":
        return False
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
