"""The work of one shard, as a pure function of a small task: staged JPEGs in, one WebDataset tar out.

A sample is KEY.jpg, KEY.json (everything known of it), KEY.npy (the clinical meta vector) and KEY.cls (the
target, -1 where unknown), in plain USTAR with integer times, so that any tar reader takes it as it is.
"""

import hashlib
import io
import json
import tarfile
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from configs.errors import UserError
from prep.files import written_whole

_BLOCK = tarfile.BLOCKSIZE
PACKER = 2
"""Version of the bytes this module writes; a change of them must raise it, so that old shards are not kept."""


@dataclass(frozen=True, kw_only=True)
class SampleTask:
    """One sample to pack: where its JPEG waits, and what its JSON and vectors say (plain JSON values)."""

    key: str
    staged: str
    offset: int
    length: int
    crc32: int
    facts: dict[str, Any]
    meta: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class ShardTask:
    """One shard to make: `folder`/`name`.tar and .idx from `samples`."""

    folder: str
    name: str
    samples: tuple[SampleTask, ...]

    def digest(self) -> str:
        """SHA-256 of everything the shard's bytes depend on; of a JPEG, its length and CRC-32."""
        samples = [[one.key, one.length, one.crc32, one.facts, one.meta] for one in self.samples]
        described = [PACKER, self.name, samples]
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class PackedShard:
    """A finished shard: bytes, SHA-256, and where each sample's JPEG lies in it (bytes from the start)."""

    name: str
    digest: str
    bytes: int
    sha256: str
    offsets: tuple[int, ...]


def pack_shard(task: ShardTask) -> PackedShard:
    """Make the shard, or find it finished: NAME.tar, NAME.idx and, last, NAME.done.json in the task's folder."""
    done = Path(task.folder) / f"{task.name}.done.json"
    finished = _read_done(done)
    if finished is not None and finished.digest == task.digest():
        return finished
    tar = done.with_name(f"{task.name}.tar")
    with written_whole(tar, durable=True) as out:
        writer = _TarWriter(out)
        offsets = tuple(_add(sample, writer) for sample in task.samples)
        writer.close()
    with written_whole(tar.with_suffix(".idx"), durable=True) as out:
        out.write(writer.dali_index().encode())
    shard = PackedShard(
        name=task.name,
        digest=task.digest(),
        bytes=writer.offset,
        sha256=writer.sha256.hexdigest(),
        offsets=offsets,
    )
    with written_whole(done, durable=True) as out:
        out.write(json.dumps(asdict(shard)).encode())
    return shard


def _add(sample: SampleTask, writer: "_TarWriter") -> int:
    """Append a sample; the offset of its JPEG."""
    with Path(sample.staged).open("rb") as staged:
        staged.seek(sample.offset)
        jpeg = staged.read(sample.length)
    if zlib.crc32(jpeg) != sample.crc32:
        raise UserError(f"{sample.staged} is damaged at {sample.key}: remove its folder and run again")
    vector = io.BytesIO()
    np.save(vector, np.array(sample.meta, dtype=np.float32))
    return writer.add_sample(
        sample.key,
        {
            "jpg": jpeg,
            "json": json.dumps(sample.facts, sort_keys=True).encode(),
            "npy": vector.getvalue(),
            "cls": str(sample.facts["target"]).encode(),
        },
    )


def _read_done(path: Path) -> PackedShard | None:
    """The record of a shard that an earlier run finished, or None."""
    try:
        record = json.loads(path.read_text())
        shard = PackedShard(**{**record, "offsets": tuple(record["offsets"])})
        whole = path.with_name(f"{shard.name}.tar").stat().st_size == shard.bytes
    except (OSError, ValueError, KeyError, TypeError):  # absent, or torn by a power cut: the shard is packed anew
        return None
    return shard if whole else None


class _TarWriter:
    """A USTAR archive whose bytes depend on names and contents only, with its hash and DALI index on the way."""

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
