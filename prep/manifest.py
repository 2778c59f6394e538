"""The format of a shard set: manifest.json, samples.parquet and tar shards in one self-describing folder."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from configs.errors import UserError
from configs.files import written_whole
from prep.fields import check_manifest
from prep.files import open_regular
from prep.metadata import FEATURES

SCHEMA_VERSION = 3
MANIFEST = "manifest.json"
SAMPLES = "samples.parquet"
DIGEST = "manifest_sha256"
"""Field of manifest.json alone: the SHA-256 of all others, so that an edited manifest, or a damaged one, is told."""
AGAIN = "copy the shard set again, or build it again with python prep/shard.py"
_ROWS_AT_A_TIME = 8192
_MOST_BYTES = 2**30  # of a manifest: 200 bytes a shard are usual

SAMPLE_SCHEMA = pa.schema(
    [
        ("index", pa.int64()),  # row number; kept samples come first, in the order of the shards
        ("key", pa.string()),
        ("shard", pa.string()),  # file name; null where the row was left out
        ("offset", pa.int64()),  # of the JPEG in the shard, in bytes; -1 where left out
        ("length", pa.int32()),
        ("crc32", pa.uint32()),
        ("source", pa.int16()),  # 2019, 2020, or 0 for an outside set
        ("subsource", pa.string()),  # 2020, BCN, HAM, MSK, none or outside
        ("split", pa.string()),  # train, test or extra
        ("fold", pa.int8()),  # -1 for test and extra rows
        ("target", pa.int8()),  # -1 where unknown
        ("diagnosis", pa.string()),
        # Rows of one group share a fold: a patient, a lesion, a duplicate, or several of them. It, patient and lesion
        # are numbers of this set (prep/privacy.py), or with --keep-ids the tables' ids.
        ("group", pa.string()),
        ("patient", pa.string()),
        ("lesion", pa.string()),
        ("meta_clinical", pa.list_(pa.float32(), len(FEATURES["clinical"]))),
        # Null where left out: it needs the image file's size.
        ("meta_reference", pa.list_(pa.float32(), len(FEATURES["reference"]))),
        ("sex", pa.string()),
        ("age", pa.float32()),  # years
        ("site", pa.string()),
        ("sex_missing", pa.bool_()),
        ("age_missing", pa.bool_()),
        ("site_missing", pa.bool_()),
        ("n_images", pa.int32()),
        ("file_bytes", pa.int64()),  # of the image file as found; -1 where there is none
        ("file_sha256", pa.string()),  # null where there is none, or it could not be used
        ("copied", pa.bool_()),  # whether the file was stored byte for byte
        ("width", pa.int32()),  # of the upright original, in pixels
        ("height", pa.int32()),
        ("duplicate_cluster", pa.string()),  # the smallest key of the training images that show one picture
        ("duplicate_decision", pa.string()),  # what became of this one of them
        ("left_out", pa.string()),  # why; null where kept
    ]
)


@dataclass(frozen=True, kw_only=True)
class ShardEntry:
    """One tar file of a shard set."""

    file: str
    bytes: int
    samples: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content of manifest.json.

    `counts` has a row for each source, split, fold and target; `labels_sha256` is `labels_digest`, what a model is
    trained and judged on, whatever the images' size; `unsafe` says why results on this set are for comparison only,
    else null; `files` has the SHA-256 of every file but the tars and the manifest itself.
    """

    schema_version: int = SCHEMA_VERSION
    size: int
    encoder: dict[str, Any]
    options: dict[str, Any]
    inputs_sha256: str
    samples: int
    left_out: int
    counts: list[dict[str, Any]]
    labels_sha256: str
    unsafe: str | None
    files: dict[str, str]
    shards: list[ShardEntry]


def kept_table(rows: pd.DataFrame) -> pa.Table:
    """What `count_rows` and `labels_digest` read, of the rows that are kept."""
    columns = ["key", "source", "split", "fold", "target"]
    return pa.Table.from_pandas(rows.loc[rows["left_out"].isna(), columns], preserve_index=False)


def count_rows(kept: pa.Table) -> list[dict[str, Any]]:
    """Rows by source, split, fold and target, sorted by these; `kept` has these columns."""
    by = ["source", "split", "fold", "target"]
    plain = kept.select(by).set_column(1, "split", pc.cast(kept["split"], pa.string()))
    sizes = plain.group_by(by, use_threads=False).aggregate([([], "count_all")])
    return [
        {**{name: row[name] for name in by}, "samples": row["count_all"]}
        for row in sizes.sort_by([(name, "ascending") for name in by]).to_pylist()
    ]


def labels_digest(kept: pa.Table) -> str:
    """SHA-256 of the lines key,fold,target of the training rows, sorted; `kept` has these columns and split."""
    train = kept.select(["key", "fold", "target"]).filter(pc.equal(kept["split"], "train"))
    text = pa.large_string()
    words = [pc.cast(train[name], text) for name in ("key", "fold", "target")]
    lines = pc.binary_join_element_wise(*words, pa.scalar(",", text)).combine_chunks()
    lines = lines.take(pc.array_sort_indices(lines))
    whole = pc.binary_join(pa.LargeListArray.from_arrays([0, len(lines)], lines), pa.scalar("\n", text))
    return hashlib.sha256(whole[0].as_buffer()).hexdigest()


def write_samples(
    rows: pd.DataFrame, vectors: dict[str, npt.NDArray[np.float32]], path: Path, *, private: bool = False
) -> None:
    """Write samples.parquet (SAMPLE_SCHEMA) from N rows, some at a time; `vectors` are its columns of vectors, float32
    [n, M] of the first n rows, null in the others. With `private`, only the user may read the file."""
    with written_whole(path, private=private) as out, pq.ParquetWriter(out, SAMPLE_SCHEMA) as writer:
        for start in range(0, len(rows), _ROWS_AT_A_TIME):
            part = rows.iloc[start : start + _ROWS_AT_A_TIME].reset_index(drop=True)
            for name, values in vectors.items():
                part[name] = pd.Series(list(values[start : start + _ROWS_AT_A_TIME]), dtype=object)
            table = pa.Table.from_pandas(part, schema=SAMPLE_SCHEMA, preserve_index=False)
            writer.write_table(table.replace_schema_metadata())


def write_manifest(manifest: Manifest, folder: Path) -> None:
    """Write manifest.json; its presence says that the shard set is whole."""
    record = asdict(manifest)
    with written_whole(folder / MANIFEST, fsync=True) as out:
        out.write((_text({**record, DIGEST: _digest(record)}) + "\n").encode())


def read_manifest(folder: Path) -> Manifest:
    """Read manifest.json of a shard set. Raises UserError where there is none, none of this schema version, or one that
    was changed since it was written or has a field out of its range."""
    path = folder / MANIFEST
    if not path.exists():
        raise UserError(
            f"{folder} holds no shard set (no {MANIFEST}): make one with python prep/shard.py "
            f"--isic2020 DIR --isic2019 DIR --out {folder}"
        )
    try:
        with open(open_regular(path), "rb") as file:  # noqa: PTH123
            record = json.loads(file.read(_MOST_BYTES))
        version = record["schema_version"]
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; {AGAIN}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path} is not a manifest: {error!r}; {AGAIN}") from error
    if version != SCHEMA_VERSION:
        raise UserError(
            f"{path} has schema version {version!r}, this code reads {SCHEMA_VERSION}: build the set again into a new "
            "--out with python prep/shard.py, the same downloads and the options that the manifest lists"
        )
    if record.pop(DIGEST, None) != _digest(record):
        raise UserError(f"{path} was changed after it was written ({DIGEST} does not fit): {AGAIN}")
    check_manifest(record, path)
    return Manifest(**{**record, "shards": [ShardEntry(**entry) for entry in record["shards"]]})


def _text(record: dict[str, Any]) -> str:
    return json.dumps(record, indent=1, sort_keys=True)


def _digest(record: dict[str, Any]) -> str:
    return hashlib.sha256(_text(record).encode()).hexdigest()
