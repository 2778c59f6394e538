"""The work of one shard, as a pure function of a small task: staged JPEGs in, one WebDataset tar out.

A sample is KEY.jpg, KEY.json (everything known of it), KEY.npy (the clinical meta vector) and KEY.cls (the
target, -1 where unknown), in plain USTAR with integer times, so that any tar reader takes it as it is.
"""

import hashlib
import io
import json
import os
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from configs.errors import UserError
from prep.files import file_sha256, read_part, written_whole

_BLOCK = tarfile.BLOCKSIZE
_EMPTY = tarfile.TarInfo().tobuf(tarfile.USTAR_FORMAT)
_SUM = sum(_EMPTY[:124]) + sum(_EMPTY[135:148]) + 8 * ord(" ") + sum(_EMPTY[156:])
PACKER = 2
"""Version of the bytes this module writes: raise it with every change of them, so that old shards are not kept."""


@dataclass(frozen=True, kw_only=True)
class ShardTask:
    """One shard to make, `folder`/`name`.tar and .idx, from N staged samples.

    `facts` are the columns of what the samples' JSON says, N plain JSON values each, key and target among them; `meta`
    is float32 [N, M]; `places` are (number of the chunk in `stage`, offset and length in bytes, CRC-32) of the JPEGs.
    """

    folder: str
    name: str
    stage: str
    facts: dict[str, list[Any]]
    meta: npt.NDArray[np.float32]
    places: list[tuple[int, int, int, int]]

    def digest(self) -> str:
        """SHA-256 of everything the shard's bytes depend on; of a JPEG, its length and CRC-32."""
        described = [PACKER, self.name, self.facts, self.meta.tolist(), [place[2:] for place in self.places]]
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class PackedShard:
    """A finished shard: bytes, SHA-256, that of its DALI index, and where each sample's JPEG lies in it, in bytes."""

    name: str
    digest: str
    bytes: int
    sha256: str
    index_sha256: str
    offsets: tuple[int, ...]


def pack_shard(task: ShardTask) -> PackedShard:
    """Make the shard, or find it finished: NAME.tar, NAME.idx and, last, NAME.done.json in the task's folder."""
    done = Path(task.folder) / f"{task.name}.done.json"
    finished = _read_done(done)
    if finished is not None and finished.digest == task.digest():
        return finished
    tar = done.with_name(f"{task.name}.tar")
    with written_whole(tar) as out:
        writer = _TarWriter(out)
        offsets = tuple(writer.add_sample(key, parts) for key, parts in _samples(task))
        writer.close()
    index = writer.dali_index().encode()
    with written_whole(tar.with_suffix(".idx")) as out:
        out.write(index)
    shard = PackedShard(
        name=task.name,
        digest=task.digest(),
        bytes=writer.offset,
        sha256=writer.sha256.hexdigest(),
        index_sha256=hashlib.sha256(index).hexdigest(),
        offsets=offsets,
    )
    with written_whole(done) as out:
        out.write(json.dumps(asdict(shard)).encode())
    return shard


def _samples(task: ShardTask) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Each sample's key and its files, by their endings."""
    array_header = _npy_header(task.meta.shape[1])
    names, columns = list(task.facts), zip(*task.facts.values(), strict=True)
    for values, vector, (chunk, offset, length, crc32) in zip(columns, task.meta, task.places, strict=True):
        facts = dict(zip(names, values, strict=True))
        jpeg = read_part(f"{task.stage}{os.sep}{chunk:06d}.jpgs", offset, length)
        if zlib.crc32(jpeg) != crc32:
            raise UserError(
                f"{task.stage}: chunk {chunk} is damaged at {facts['key']}: remove the folder and run again"
            )
        yield (
            facts["key"],
            {
                "jpg": jpeg,
                "json": json.dumps(facts, sort_keys=True).encode(),
                "npy": array_header + vector.tobytes(),
                "cls": str(facts["target"]).encode(),
            },
        )


def _npy_header(length: int) -> bytes:
    """What precedes the values in the .npy file of a float32 vector."""
    file = io.BytesIO()
    np.save(file, np.zeros(length, dtype=np.float32))
    return file.getvalue()[: -4 * length]


def _read_done(path: Path) -> PackedShard | None:
    """The record of a shard that an earlier run finished, or None where it, or its tar, is not whole.

    Shards are not flushed while they are packed, so after a power cut a file may exist without its content.
    """
    try:
        record = json.loads(path.read_text())
        shard = PackedShard(**{**record, "offsets": tuple(record["offsets"])})
        hashes = [file_sha256(path.with_name(f"{shard.name}.{ending}")) for ending in ("tar", "idx")]
        whole = hashes == [shard.sha256, shard.index_sha256]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return shard if whole else None


def _tar_header(name: str, size: int) -> bytes:
    """The USTAR header of a file, 512 bytes: that of an empty file, with name, size and checksum filled in.

    TarInfo.tobuf takes 14 times as long, which shows with four files per image. Field offsets as in POSIX.1-1988: name
    0-99, size 124-135, checksum 148-155, which counts as blanks in the sum.
    """
    encoded = name.encode()
    if len(encoded) > 100 or size >= 8**11:
        raise UserError(f"{name}: the name or the file is too long for a plain tar: use names of up to 95 bytes")
    octal = b"%011o" % size
    checksum = b"%06o\0 " % (_SUM + sum(encoded) + sum(octal))
    return b"".join(
        [encoded, bytes(100 - len(encoded)), _EMPTY[100:124], octal, _EMPTY[135:148], checksum, _EMPTY[156:]]
    )


class _TarWriter:
    """A USTAR archive whose bytes depend on names and contents only; its hash and DALI index are made alongside."""

    def __init__(self, out: BinaryIO) -> None:
        self.offset = 0
        self.sha256 = hashlib.sha256()
        self._out = out
        self._index: list[str] = []

    def add_sample(self, key: str, parts: dict[str, bytes]) -> int:
        """Append `parts` (file ending -> content) and return the offset of the first one's content in bytes."""
        first = self.offset + _BLOCK
        entries = []
        for ending, content in parts.items():
            name = f"{key}.{ending}"
            entries.append(f"{ending} {self.offset + _BLOCK} {len(content)} {name}")
            self._write(_tar_header(name, len(content)) + content + bytes(-len(content) % _BLOCK))
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
