"""Files written whole or not at all, what killed writers left removed; and a lock that ends with its process."""

import os
import re
import secrets
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from configs.errors import UserError

_TEMPORARY = re.compile(r"\.(?:([A-Za-z0-9_-]+)-)?\d+\.[0-9a-f]{8}\.tmp$")  # .HOST-PID.TOKEN.tmp
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
_YOUNG, _OLD = 2, 24 * 3600  # seconds: its writer may not have locked it yet; nobody writes to it any more
_LOCK_SECONDS = 2.0  # the kernel frees the memory of a process that was killed before it frees its locks


def is_there(path: Path) -> bool:
    """Whether something has the name `path`, also a pipe or a broken link: not to be passed over as if it were missing,
    but left to the reader, which refuses it."""
    return os.path.lexists(path)


@contextmanager
def written_whole(
    path: Path, *, fsync: bool = False, private: bool = False, check: Callable[[], None] | None = None
) -> Iterator[BinaryIO]:
    """A file to write. It takes the name `path` when the block ends normally; otherwise it is removed, and a file that
    had that name before is still there. What writers of `path` that were killed left behind is removed first.

    With `fsync`, file and name survive a power cut from the moment this returns; with `private`, only the user may read
    the file. `check` is called just before the file takes the name, and may raise. An OSError of the write carries
    `path` as its file name, not the temporary one, which no two processes, on one host or several, share.
    """
    _clear_leftovers(path)
    temporary = path.with_name(f"{path.name}.{_this_host()}-{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        descriptor = os.open(str(temporary), _NEW, 0o600 if private else 0o666)
        with open(descriptor, "wb", buffering=2**20) as out:  # noqa: PTH123
            _lock(descriptor)  # until it is closed, also by the end of this process
            yield out
            if fsync:
                out.flush()
                os.fsync(out.fileno())
        if check is not None:
            check()
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


def _this_host() -> str:
    """The name of this host as it stands in names of files."""
    return re.sub("[^A-Za-z0-9_-]", "-", socket.gethostname().split(".")[0])[-40:] or "host"


def _clear_leftovers(path: Path) -> None:
    """Remove the temporary files of `path` whose writer is gone."""
    with suppress(OSError):  # a folder that cannot be listed, a leftover of another user
        for entry in os.scandir(path.parent):
            found = _TEMPORARY.search(entry.name)
            if found and entry.name[: found.start()] == path.name and _is_abandoned(Path(entry), found[1]):
                Path(entry).unlink(missing_ok=True)


def clear_folder(folder: Path, *, alone: bool) -> None:
    """Remove the temporary files in a folder whose writers are gone; with `alone`, as nobody else on this host writes
    there, all of this host's."""
    for path in folder.glob("*.tmp"):
        found = _TEMPORARY.search(path.name)
        host = found[1] if found else None
        with suppress(FileNotFoundError):  # its writer has just ended
            if (alone and host in (None, _this_host())) or _is_abandoned(path, host):
                path.unlink()


def _is_abandoned(temporary: Path, host: str | None) -> bool:
    """Whether nobody writes a file: on this host (also without a `host`, of an earlier version) no process has locked
    it; another host's file is left alone for a day, as locks may not reach that far."""
    age = time.time() - temporary.stat().st_mtime
    if age > _OLD:
        return True
    if age < _YOUNG or host not in (None, _this_host()):
        return False
    descriptor = os.open(temporary, os.O_RDWR)
    try:
        return _lock(descriptor)
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
            _wait_for(file)
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
        if warning is None:  # else it may name another process by now
            file.truncate(0)


def _wait_for(file: BinaryIO) -> None:
    import fcntl  # not on Windows

    for _ in range(int(_LOCK_SECONDS / 0.1)):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            time.sleep(0.1)
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
