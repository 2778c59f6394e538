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
import pyarrow.parquet as pq

from configs.errors import UserError
from configs.files import written_whole
from prep.metadata import FEATURES

SCHEMA_VERSION = 2
MANIFEST = "manifest.json"
SAMPLES = "samples.parquet"
_ROWS_AT_A_TIME = 8192

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
        ("group", pa.string()),  # rows of one group share a fold: a patient, a lesion, a duplicate, or several of them
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


def count_rows(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Kept rows by source, split, fold and target."""
    by = ["source", "split", "fold", "target"]
    sizes = rows.loc[rows["left_out"].isna(), by].groupby(by).size().reset_index(name="samples")
    return [{str(name): value for name, value in row.items()} for row in sizes.to_dict("records")]


def labels_digest(rows: pd.DataFrame) -> str:
    """SHA-256 of the lines key,fold,target of the kept training rows, sorted."""
    kept = rows.loc[rows["left_out"].isna() & (rows["split"] == "train"), ["key", "fold", "target"]]
    lines = kept["key"] + "," + kept["fold"].astype(str) + "," + kept["target"].astype(str)
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def write_samples(rows: pd.DataFrame, vectors: dict[str, npt.NDArray[np.float32]], path: Path) -> None:
    """Write samples.parquet (SAMPLE_SCHEMA) from N rows, some at a time; `vectors` are its columns of vectors, float32
    [n, M] of the first n rows, null in the others."""
    with written_whole(path) as out, pq.ParquetWriter(out, SAMPLE_SCHEMA) as writer:
        for start in range(0, len(rows), _ROWS_AT_A_TIME):
            part = rows.iloc[start : start + _ROWS_AT_A_TIME].reset_index(drop=True)
            for name, values in vectors.items():
                part[name] = pd.Series(list(values[start : start + _ROWS_AT_A_TIME]), dtype=object)
            table = pa.Table.from_pandas(part, schema=SAMPLE_SCHEMA, preserve_index=False)
            writer.write_table(table.replace_schema_metadata())


def write_manifest(manifest: Manifest, folder: Path) -> None:
    """Write manifest.json; its presence says that the shard set is whole."""
    with written_whole(folder / MANIFEST, fsync=True) as out:
        out.write((json.dumps(asdict(manifest), indent=1, sort_keys=True) + "\n").encode())


def read_manifest(folder: Path) -> Manifest:
    """Read manifest.json of a shard set. Raises UserError where there is none, or none of this schema version."""
    path = folder / MANIFEST
    if not path.is_file():
        raise UserError(
            f"{folder} holds no shard set (no {MANIFEST}): make one with python prep/shard.py "
            f"--isic2020 DIR --isic2019 DIR --out {folder}"
        )
    try:
        record = json.loads(path.read_text())
        version = record["schema_version"]
        if version == SCHEMA_VERSION:
            return Manifest(**{**record, "shards": [ShardEntry(**entry) for entry in record["shards"]]})
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a manifest: {error}; build the shard set again") from error
    raise UserError(f"{path} has schema version {version}, this code reads {SCHEMA_VERSION}: build the shard set again")
