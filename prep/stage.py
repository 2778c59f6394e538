"""The first pass: each image file read, decoded and encoded once, a chunk of them as a pure function of a small task.

What a shard holds depends on duplicates, and these on every image. So the encoded JPEGs are kept in chunks (STEM.jpgs,
concatenated) until `prep/pack.py` sorts them into shards; STEM.npz describes them, and STEM.thumbs has their
thumbnails.
"""

import hashlib
import json
import os
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import numpy as np

from configs.files import written_whole
from configs.prep import Fit, PrepConfig, Subsampling
from prep.files import read_regular
from prep.fingerprint import are_flat, perceptual_hashes
from prep.images import MAX_PIXELS, THUMB, BadImageError, StoredImage, store_image

STAGER = 1
"""Version of what this module makes of an image file: raise it with every change of the bytes."""
CHUNK, MOST_CHUNKS = 128, 512
"""Images of a chunk, or more where these make more chunks, each of which stays open while shards are packed."""

_BYTES_A_PIXEL, _METADATA = 8, 2**26  # what an image file may take at most: four channels of 16 bits, and 64 MiB
_KILLED = "the process that read it was killed, most likely because memory ran out"

RECORD = np.dtype(
    [
        ("offset", "i8"),  # of the JPEG in STEM.jpgs, in bytes
        ("length", "i4"),
        ("crc32", "u4"),
        ("width", "i4"),  # of the upright original, in pixels
        ("height", "i4"),
        ("copied", "?"),
        ("hash", "u8"),  # perceptual
        ("flat", "?"),  # too flat to be recognised
        ("sha256", "S64"),  # of the file as found
        ("bad", "?"),  # it cannot be used: `read_reasons` says why
    ]
)
_MOST_LETTERS = 200  # of a reason


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """How an image is stored."""

    size: int
    fit: Fit
    quality: int
    subsampling: Subsampling

    @classmethod
    def of(cls, config: PrepConfig) -> Self:
        """The part of a configuration that decides how an image is stored."""
        return cls(size=config.size, fit=config.fit, quality=config.quality, subsampling=config.subsampling)

    @classmethod
    def from_described(cls, described: Mapping[str, Any]) -> Self:
        """The settings in what `described` returned, which a manifest keeps as its encoder."""
        return cls(**{setting.name: described[setting.name] for setting in fields(cls)})

    def described(self) -> dict[str, Any]:
        """The settings, and the versions of the libraries that decide the bytes."""
        return {**asdict(self), "stager": STAGER, **libraries()}


def libraries() -> dict[str, str]:
    """The versions of the libraries that decide the bytes."""
    return {name: version(name) for name in ("simplejpeg", "pillow", "opencv-python-headless")}


@dataclass(frozen=True, kw_only=True)
class StageTask:
    """A chunk to make: `stem`.jpgs, .thumbs and .npz from `files` (path, bytes, time of the last change in ns), none
    of more than `max_pixels`."""

    stem: str
    encoding: Encoding
    files: tuple[tuple[str, int, int], ...]
    max_pixels: int = MAX_PIXELS

    def digest(self) -> str:
        """SHA-256 of everything the chunk depends on; a file counts as unchanged by its size and time."""
        return hashlib.sha256(json.dumps([self.encoding.described(), self.files, self.max_pixels]).encode()).hexdigest()


def read_image(path: str | Path, encoding: Encoding, max_pixels: int = MAX_PIXELS) -> tuple[bytes, StoredImage]:
    """An image file as found, and as it is stored. Raises BadImageError, also where the file cannot be read, or memory
    does not suffice."""
    try:
        data = read_regular(path, most=_METADATA + _BYTES_A_PIXEL * max_pixels)
        return data, store_image(data, max_pixels=max_pixels, **vars(encoding))
    except OSError as error:
        raise BadImageError(f"cannot be read: {error.strerror}") from error
    except MemoryError as error:
        raise BadImageError("memory does not suffice to decode it") from error


def stage_chunk(task: StageTask) -> int:
    """Make the chunk, or find it made; returns its number of images. Unusable images are left out, with the reason.

    While it reads, STEM.now has the number of the image (prep/killers.py); those in STEM.killers are not read.
    """
    made = made_chunk(task)
    if made is not None:
        return made
    records, reasons = np.zeros(len(task.files), dtype=RECORD), []
    thumbs = np.zeros((len(task.files), THUMB, THUMB), dtype=np.uint8)
    offset = 0
    killers = read_killers(task.stem)
    now = Path(f"{task.stem}.now")
    with written_whole(Path(f"{task.stem}.jpgs")) as out, now.open("wb", buffering=0) as mark:
        for number, (path, _, _) in enumerate(task.files):
            mark.seek(0)
            mark.write(b"%6d" % number)
            try:
                if number in killers:
                    raise BadImageError(_KILLED)
                data, image = read_image(path, task.encoding, task.max_pixels)
            except BadImageError as error:
                records["bad"][number] = True
                reasons.append(str(error)[:_MOST_LETTERS])
                continue
            out.write(image.jpeg)
            thumbs[number] = image.thumb
            stored = (offset, len(image.jpeg), zlib.crc32(image.jpeg), image.width, image.height, image.copied)
            records[number] = (*stored, 0, False, hashlib.sha256(data).hexdigest(), False)
            offset += len(image.jpeg)
    now.unlink(missing_ok=True)  # where a task was given out twice, the other may have ended
    records["hash"], records["flat"] = perceptual_hashes(thumbs), are_flat(thumbs)
    with written_whole(Path(f"{task.stem}.thumbs")) as out:
        out.write(thumbs.tobytes())
    with written_whole(Path(f"{task.stem}.npz")) as out:
        np.savez(out, digest=np.array(task.digest()), records=records, reasons=np.array(reasons, dtype="U"))
    return len(task.files)


def chunk_size(images: int) -> int:
    """The number of images of a chunk, of `images` in all."""
    return max(CHUNK, -(-images // MOST_CHUNKS))


def chunk_stem(folder: str | Path, number: int) -> str:
    """Path of the chunk with this number, without its endings."""
    return f"{folder}{os.sep}{number:06d}"


def read_killers(stem: str) -> list[int]:
    """The numbers of the chunk's images that killed the process that read them."""
    path = Path(f"{stem}.killers")
    return [int(number) for number in path.read_text().split()] if path.is_file() else []


def read_records(stem: str) -> np.ndarray:
    """The records of a finished chunk, RECORD [N]."""
    return _read(stem, "records")


def read_reasons(stem: str) -> list[str]:
    """Why each bad image of a finished chunk cannot be used."""
    return [str(reason) for reason in _read(stem, "reasons")]


def _read(stem: str, name: str) -> np.ndarray:
    # numpy does not close a file that is not an archive, which one may not be after a power cut.
    with Path(f"{stem}.npz").open("rb") as file, np.load(file) as found:
        return np.asarray(found[name])


def made_chunk(task: StageTask) -> int | None:
    """The number of images of the chunk if it is there, whole. One with an unusable image is made again: the image may
    have been repaired without a new size or time."""
    try:
        records = read_records(task.stem)
        sizes = [Path(f"{task.stem}.{ending}").stat().st_size for ending in ("jpgs", "thumbs")]
        same = str(_read(task.stem, "digest")) == task.digest() and records.dtype == RECORD  # else of an older version
        wanted = [records["length"].sum(), len(records) * THUMB * THUMB]
        made = same and not records["bad"].any() and sizes == wanted
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):  # absent, or cut short by a power cut
        return None
    return len(records) if made else None
