"""The folder that a shard set is built in: enough free space, one builder at a time, no files of anybody else."""

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


def require_space(folder: Path, *, images: int, size: int) -> None:
    """Raise UserError where the disk of `folder` lacks the space for a set of `images` at `size` pixels.

    Until the set is complete each image is stored twice, once staged and once in its shard: half a byte per pixel at
    quality 96, as measured on ISIC images, and 8 KB for tar headers, vectors and thumbnails.
    """
    present = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    needed = images * (2 * size * size // 2 + 8192) - present
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"{folder}: about {needed / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free: "
            "free some space, or choose an --out on another disk or a smaller --size"
        )
