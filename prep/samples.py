"""samples.parquet of a shard set, read: nothing of it is used before it agrees with the manifest."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from configs.errors import UserError
from configs.prep import MOST_FOLDS
from configs.schema import MetaKind
from prep.fields import SOURCES, SPLITS
from prep.files import file_sha256
from prep.manifest import AGAIN, SAMPLE_SCHEMA, SAMPLES, Manifest, count_rows, labels_digest
from prep.metadata import FEATURES

_CHECKED = ["key", "shard", "offset", "length", "crc32", "source", "split", "fold", "target"]
_REPEATING = ["shard", "split", "diagnosis", "left_out"]  # few distinct values: read as dictionary arrays
_FIRST_BYTE = 512  # of a tar's content: a header comes first


class SampleTable:
    """The rows of the kept samples, N of them, in the order of the shards.

    Raises UserError, which names file and column, where samples.parquet is not the file that the manifest describes,
    or is no table of a shard set.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        """Check the file's SHA-256, its columns, and its number of rows."""
        self.path = folder / SAMPLES
        self._manifest = manifest
        try:
            self._seen = self._state()
            if file_sha256(self.path) != manifest.files[SAMPLES]:
                raise UserError(f"{self.path}: SHA-256 is not the one in manifest.json: {AGAIN}")
            schema, rows = pq.read_schema(self.path), pq.read_metadata(self.path).num_rows
        except (OSError, pa.ArrowException) as error:
            raise self._unreadable(error) from error
        for wanted in SAMPLE_SCHEMA:
            index = schema.get_field_index(wanted.name)
            if index < 0 or schema.field(index).type != wanted.type:
                found = "is missing" if index < 0 else f"is of type {schema.field(index).type}"
                raise self._wrong(f"column {wanted.name} {found}, wanted {wanted.type}")
        if rows != manifest.samples + manifest.left_out:
            raise self._wrong(
                f"{rows:,} rows, the manifest says {manifest.samples:,} and {manifest.left_out:,} left out"
            )

    def columns(self, names: Sequence[str]) -> pa.Table:
        """Some columns; those with few distinct values as dictionary arrays."""
        return self._read(names).slice(0, self._manifest.samples)

    def checked(self, more: Sequence[str]) -> pa.Table:
        """The columns that say what a sample is and where it lies, each value within its range and all of them as the
        manifest counts and hashes them; and `more` columns, as they are."""
        table = self._read([*_CHECKED, "left_out", *more])
        samples = self._manifest.samples
        kept = table.slice(0, samples)
        if pc.sum(pc.is_null(table["left_out"])).as_py() != samples or kept["left_out"].null_count != samples:
            raise self._wrong(f"column left_out does not keep the first {samples:,} rows and no other")
        for name in _CHECKED:
            if kept[name].null_count:
                raise self._wrong(f"column {name} has no value in {kept[name].null_count:,} kept rows")
        self._check_numbers(kept)
        self._check_places(kept)
        if count_rows(kept) != self._manifest.counts:
            raise self._wrong("its counts by source, split, fold and target differ from the manifest")
        if labels_digest(kept) != self._manifest.labels_sha256:
            raise self._wrong("keys, folds and targets differ from the manifest (labels_sha256)")
        return kept

    def meta(self, kind: MetaKind) -> npt.NDArray[np.float32]:
        """The meta vectors, float32 [N, M]. Raises UserError also where one has a value that is no finite number."""
        vectors = self.columns([f"meta_{kind}"])[0].combine_chunks()
        if vectors.null_count:
            raise self._wrong(f"column meta_{kind} has no value in {vectors.null_count:,} kept rows")
        found: npt.NDArray[np.float32] = vectors.flatten().to_numpy(zero_copy_only=False).reshape(len(vectors), -1)
        if not np.isfinite(found).all():
            row, place = (int(part[0]) for part in np.nonzero(~np.isfinite(found)))
            name, value = FEATURES[kind][place], found[row, place]
            raise self._wrong(f"column meta_{kind}: {name} of {self._key(row)} is {value}, wanted a finite number")
        return found

    def _check_numbers(self, kept: pa.Table) -> None:
        split = pc.cast(kept["split"], pa.string())
        train = pc.equal(split, "train").to_numpy()
        fold, target, source = (kept[name].to_numpy() for name in ("fold", "target", "source"))
        known = pc.is_in(split, pa.array(SPLITS)).to_numpy()
        self._require("split", kept, known, "train, test or extra")
        self._require("source", kept, np.isin(source, SOURCES), "2019, 2020, or 0 for an outside set")
        folds = np.where(train, (fold >= 0) & (fold < MOST_FOLDS), fold == -1)
        self._require("fold", kept, folds, f"0 to {MOST_FOLDS - 1} in training rows, -1 in others")
        self._require("target", kept, (target >= -1) & (target <= 1), "0, 1, or -1 where unknown")

    def _check_places(self, kept: pa.Table) -> None:
        shards = self._manifest.shards
        numbers = {entry.file: number for number, entry in enumerate(shards)}
        shard = kept["shard"].combine_chunks()
        known = np.array([numbers.get(name, -1) for name in shard.dictionary.to_pylist()])
        number = known[shard.indices.to_numpy()]
        self._require("shard", kept, number >= 0, "a shard of the manifest")
        counts = np.bincount(number, minlength=len(shards))
        for entry, count in zip(shards, counts.tolist(), strict=True):
            if count != entry.samples:
                raise self._wrong(f"column shard has {entry.file} {count:,} times, the manifest {entry.samples:,}")
        offset, length = kept["offset"].to_numpy(), kept["length"].to_numpy()
        ends = np.array([entry.bytes for entry in shards])[number]
        self._require("length", kept, length > 0, "1 or more")
        self._require("offset", kept, (offset >= _FIRST_BYTE) & (offset <= ends - length), "a place within its shard")

    def _require(self, name: str, kept: pa.Table, good: npt.NDArray[np.bool_], wanted: str) -> None:
        if not good.all():
            row = int(np.argmin(good))
            found, key = kept[name][row].as_py(), kept["key"][row].as_py()
            raise self._wrong(f"column {name} of {key} (row {row}) is {found}, wanted {wanted}")

    def _read(self, names: Sequence[str]) -> pa.Table:
        try:
            # On this thread alone: what arrow's own threads allocate is not given back when it is released.
            with pq.ParquetFile(self.path, read_dictionary=_REPEATING, pre_buffer=False) as file:
                table = file.read(columns=list(names), use_threads=False)
            now = self._state()
        except (OSError, pa.ArrowException) as error:
            raise self._unreadable(error) from error
        if now != self._seen:
            raise UserError(f"{self.path} was replaced while it was in use: run again")
        return table

    def _state(self) -> tuple[int, int, int]:
        """What changes when the file does."""
        found = self.path.stat()
        return found.st_ino, found.st_size, found.st_mtime_ns

    def _key(self, row: int) -> str:
        return str(self.columns(["key"])[0][row].as_py())

    def _wrong(self, what: str) -> UserError:
        return UserError(f"{self.path}: {what}; build the shard set again")

    def _unreadable(self, error: Exception) -> UserError:
        return UserError(f"{self.path} cannot be read: {' '.join(str(error).split())}; {AGAIN}")
