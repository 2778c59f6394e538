"""The work of one shard, as a pure function of a small task: staged JPEGs in, one WebDataset tar out.

A sample is KEY.jpg, KEY.json (everything known of it), KEY.npy (the clinical meta vector) and KEY.cls (the
target, -1 where unknown), in plain USTAR.
"""

import hashlib
import io
import json
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from configs.errors import UserError
from configs.files import written_whole
from prep.files import OpenFiles, file_sha256
from prep.stage import chunk_stem

_BLOCK = tarfile.BLOCKSIZE
_EMPTY = tarfile.TarInfo().tobuf(tarfile.USTAR_FORMAT)
# Of an empty header without its size; the checksum itself counts as blanks.
_SUM = sum(_EMPTY[:124]) + sum(_EMPTY[135:148]) + 8 * ord(" ") + sum(_EMPTY[156:])
_chunks = OpenFiles()  # of this process, for all shards that it packs: each takes a few samples from every chunk
PACKER = 2
"""Version of the bytes this module writes: raise it with every change of them, so that old shards are not kept."""


@dataclass(frozen=True, kw_only=True)
class ShardTask:
    """One shard to make, `folder`/`name`.tar and .idx, from N staged samples.

    `facts` are the columns of the samples' JSON, N plain values each, key and target among them; `meta` is float32
    [N, M]; `places` are (number of the chunk in `stage`, offset and length in bytes, CRC-32) of the JPEGs. With
    `private`, only the user may read the shard.
    """

    folder: str
    name: str
    stage: str
    facts: dict[str, list[Any]]
    meta: npt.NDArray[np.float32]
    places: list[tuple[int, int, int, int]]
    private: bool = False

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
    offsets: list[int]


def pack_shard(task: ShardTask) -> PackedShard:
    """Make the shard, or find it finished: NAME.tar, NAME.idx and, last, NAME.done.json in the task's folder."""
    finished = finished_shard(task)
    if finished is not None:
        return finished
    done = _done(task)
    tar = done.with_name(f"{task.name}.tar")
    with written_whole(tar, private=task.private) as out:
        sha256, offsets, index = _write_tar(_samples(task), out)
        size = out.tell()
    with written_whole(tar.with_suffix(".idx")) as out:
        out.write(index)
    shard = PackedShard(
        name=task.name,
        digest=task.digest(),
        bytes=size,
        sha256=sha256,
        index_sha256=hashlib.sha256(index).hexdigest(),
        offsets=offsets,
    )
    with written_whole(done) as out:
        out.write(json.dumps(asdict(shard)).encode())
    return shard


def close_chunks() -> None:
    """Close the chunks that this process has read from; where a set is built again, their names are of other files."""
    _chunks.close()


def _samples(task: ShardTask) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Each sample's key and its files, by their endings."""
    array = io.BytesIO()
    np.save(array, task.meta[0])
    array_header = array.getvalue()[: -task.meta[0].nbytes]
    names, columns = list(task.facts), zip(*task.facts.values(), strict=True)
    for values, vector, (chunk, offset, length, crc32) in zip(columns, task.meta, task.places, strict=True):
        facts = dict(zip(names, values, strict=True))
        jpeg = _chunks.read(f"{chunk_stem(task.stage, chunk)}.jpgs", offset, length)
        if zlib.crc32(jpeg) != crc32:
            key = facts["key"]
            raise UserError(f"{task.stage}: chunk {chunk} is damaged at {key}: remove the folder and run again")
        parts = {"jpg": jpeg, "json": json.dumps(facts, sort_keys=True).encode()}
        parts |= {"npy": array_header + vector.tobytes(), "cls": str(facts["target"]).encode()}
        yield facts["key"], parts


def finished_shard(task: ShardTask) -> PackedShard | None:
    """The shard if it is there, whole, with its tar and its index: shards are not flushed while they are packed, so a
    power cut may leave a file without its content."""
    path = _done(task)
    try:
        shard = PackedShard(**json.loads(path.read_text()))
        hashes = [file_sha256(path.with_name(f"{shard.name}.{ending}")) for ending in ("tar", "idx")]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    whole = shard.digest == task.digest() and hashes == [shard.sha256, shard.index_sha256]
    return shard if whole else None


def _done(task: ShardTask) -> Path:
    return Path(task.folder) / f"{task.name}.done.json"


def _write_tar(samples: Iterable[tuple[str, dict[str, bytes]]], out: BinaryIO) -> tuple[str, list[int], bytes]:
    """Write a USTAR archive whose bytes depend on names and contents only.

    Returns its SHA-256, where each sample's first file lies, in bytes, and the index file of DALI's
    readers.webdataset, format v1.2.
    """
    digest, offset, offsets, lines = hashlib.sha256(), 0, [], []
    for key, parts in samples:
        offsets.append(offset + _BLOCK)
        entries = []
        for ending, content in parts.items():
            name = f"{key}.{ending}"
            entries.append(f"{ending} {offset + _BLOCK} {len(content)} {name}")
            blocks = tar_header(name, len(content)) + content + bytes(-len(content) % _BLOCK)
            out.write(blocks)
            digest.update(blocks)
            offset += len(blocks)
        lines.append(" ".join(entries))
    end = bytes(2 * _BLOCK + -(offset + 2 * _BLOCK) % tarfile.RECORDSIZE)  # two empty blocks, then a whole record
    out.write(end)
    digest.update(end)
    return digest.hexdigest(), offsets, "\n".join([f"v1.2 {len(lines)}", *lines, ""]).encode()


def tar_header(name: str, size: int) -> bytes:
    """The USTAR header of a file, 512 bytes: that of an empty file, with name, size and checksum filled in.

    TarInfo.tobuf takes several times as long, which shows with four files per image. Field offsets as in POSIX.1-1988.
    """
    encoded = name.encode()
    if len(encoded) > 100 or size >= 8**11:
        raise UserError(f"{name}: the name or the file is too long for a plain tar: use names of up to 95 bytes")
    header = bytearray(_EMPTY)
    header[: len(encoded)] = encoded
    header[124:135] = octal = b"%011o" % size
    header[148:156] = b"%06o\0 " % (_SUM + sum(encoded) + sum(octal))
    return bytes(header)
