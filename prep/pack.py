"""The work of one shard, as a pure function of a small task: image files in, one WebDataset tar out.

A sample is KEY.jpg, KEY.json (everything known of it), KEY.npy (the clinical meta vector) and KEY.cls (the
target, -1 where unknown), in plain USTAR with integer times, so that any tar reader takes it as it is.
"""

import hashlib
import io
import json
import os
import tarfile
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg

from prep.images import BadImageError, store_image

_BLOCK = tarfile.BLOCKSIZE
PACKER = 1
"""Version of the bytes this module writes; a change of them must raise it, so that old shards are not kept."""


@dataclass(frozen=True, kw_only=True)
class SampleTask:
    """One sample to pack: its image file, and what its JSON and vectors say (plain JSON values)."""

    key: str
    path: str
    facts: dict[str, Any]
    meta: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class ShardTask:
    """One shard to make: `folder`/`name`.tar and .idx from `samples`, images squashed to `size`."""

    folder: str
    name: str
    size: int
    quality: int
    samples: tuple[SampleTask, ...]

    def digest(self) -> str:
        """SHA-256 of everything the shard's bytes depend on, except the content of the image files."""
        samples = [[sample.key, sample.facts, sample.meta] for sample in self.samples]
        described = [PACKER, simplejpeg.__version__, cv2.__version__, self.name, self.size, self.quality, samples]
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class PackedSample:
    """Where a packed sample's JPEG lies in its shard (bytes), its CRC-32, and the original's upright size."""

    key: str
    offset: int
    length: int
    crc32: int
    width: int
    height: int


@dataclass(frozen=True, kw_only=True)
class PackedShard:
    """A finished shard; `rejected` holds (path, reason) of images that could not be decoded: then no file is kept."""

    name: str
    digest: str
    bytes: int
    sha256: str
    samples: tuple[PackedSample, ...]
    rejected: tuple[tuple[str, str], ...]


def pack_shard(task: ShardTask) -> PackedShard:
    """Make the shard, or find it finished: NAME.tar, NAME.idx and, last, NAME.done.json in the task's folder."""
    done = Path(task.folder) / f"{task.name}.done.json"
    finished = _read_done(done)
    if finished is not None and finished.digest == task.digest():
        return finished
    tar = Path(task.folder) / f"{task.name}.tar"
    partial = tar.with_suffix(".tar.tmp")
    with partial.open("wb") as out:
        writer = _TarWriter(out)
        packed, rejected = _write_samples(task, writer)
        writer.close()
        out.flush()
        os.fsync(out.fileno())
    shard = PackedShard(
        name=task.name,
        digest=task.digest(),
        bytes=writer.offset,
        sha256=writer.sha256.hexdigest(),
        samples=tuple(packed),
        rejected=tuple(rejected),
    )
    if rejected:
        partial.unlink()
        return shard
    partial.replace(tar)
    tar.with_suffix(".idx").write_text(writer.dali_index())
    temporary = done.with_suffix(".tmp")
    temporary.write_text(json.dumps(asdict(shard)))
    temporary.replace(done)
    return shard


def _write_samples(task: ShardTask, writer: "_TarWriter") -> tuple[list[PackedSample], list[tuple[str, str]]]:
    packed: list[PackedSample] = []
    rejected: list[tuple[str, str]] = []
    for sample in task.samples:
        try:
            image = store_image(Path(sample.path).read_bytes(), size=task.size, quality=task.quality)
        except BadImageError as error:
            rejected.append((sample.path, str(error)))
            continue
        except OSError as error:
            rejected.append((sample.path, f"cannot be read: {error.strerror}"))
            continue
        facts = {**sample.facts, "width": image.width, "height": image.height}
        vector = io.BytesIO()
        np.save(vector, np.array(sample.meta, dtype=np.float32))
        offset = writer.add_sample(
            sample.key,
            {
                "jpg": image.jpeg,
                "json": json.dumps(facts, sort_keys=True).encode(),
                "npy": vector.getvalue(),
                "cls": str(sample.facts["target"]).encode(),
            },
        )
        packed.append(
            PackedSample(
                key=sample.key,
                offset=offset,
                length=len(image.jpeg),
                crc32=zlib.crc32(image.jpeg),
                width=image.width,
                height=image.height,
            )
        )
    return packed, rejected


def _read_done(path: Path) -> PackedShard | None:
    """The record of a shard that an earlier run finished, or None."""
    try:
        record = json.loads(path.read_text())
        samples = tuple(PackedSample(**sample) for sample in record.pop("samples"))
        shard = PackedShard(**{**record, "samples": samples, "rejected": ()})
        whole = path.with_name(f"{shard.name}.tar").stat().st_size == shard.bytes
    except (OSError, ValueError, KeyError, TypeError):  # absent, or torn by a power cut: the shard is packed anew
        return None
    return shard if whole else None


class _TarWriter:
    """A USTAR archive whose bytes depend on names and contents only, with its hash and DALI index on the way."""

    def __init__(self, out: io.BufferedWriter) -> None:
        self.offset = 0
        self.sha256 = hashlib.sha256()
        self._out = out
        self._index: list[str] = []

    def add_sample(self, key: str, parts: dict[str, bytes]) -> int:
        """Append `parts` (file ending -> content) and return the offset of the first one's content in bytes."""
        first = self.offset + _BLOCK
        entries = []
        for ending, content in parts.items():
            header = tarfile.TarInfo(f"{key}.{ending}")
            header.size = len(content)
            entries.append(f"{ending} {self.offset + _BLOCK} {len(content)} {header.name}")
            self._write(header.tobuf(tarfile.USTAR_FORMAT))
            self._write(content + bytes(-len(content) % _BLOCK))
        self._index.append(" ".join(entries))
        return first

    def close(self) -> None:
        """End the archive: two empty blocks, padded to a whole record as tar does."""
        end = self.offset + 2 * _BLOCK
        self._write(bytes(end - self.offset + -end % tarfile.RECORDSIZE))

    def dali_index(self) -> str:
        """The index file of DALI's readers.webdataset, format v1.2."""
        return "\n".join([f"v1.2 {len(self._index)}", *self._index]) + "\n"

    def _write(self, content: bytes) -> None:
        self._out.write(content)
        self.sha256.update(content)
        self.offset += len(content)
