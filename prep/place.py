"""The folder that a shard set is built in: enough room, one builder at a time, nothing in it that is not ours."""

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

from configs.errors import UserError


@contextmanager
def only_builder(folder: Path, ours: Sequence[str]) -> Iterator[None]:
    """Make `folder` and hold it for this process alone; `ours` are the patterns of the names that may lie in it.

    Raises UserError where another process builds there, or something lies there that is not ours.
    """
    folder.mkdir(parents=True, exist_ok=True)
    strange = sorted(path.name for path in folder.iterdir() if not any(fnmatch(path.name, name) for name in ours))
    if strange:
        raise UserError(f"{folder} holds {strange[0]}, which is not ours: move it away or choose another --out")
    if sys.platform == "win32":  # no locks on folders there
        yield
        return
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"{folder}: another process builds there; wait for it or choose another --out") from error
        yield
    finally:
        os.close(descriptor)


def require_room(folder: Path, *, images: int, size: int) -> None:
    """Raise UserError where the disk of `folder` has no room for a set of `images` at `size` pixels.

    Each image lies there twice until the set is done, once staged and once in its shard: half a byte a pixel at
    quality 96, as measured on ISIC images, and 8 KB for tar headers, vectors and small pictures.
    """
    lying = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    needed = images * (2 * size * size // 2 + 8192) - lying
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"{folder}: about {needed / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free: "
            "make room, choose an --out on another disk, or a smaller --size"
        )
