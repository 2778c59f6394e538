"""Tables of predictions: parquet files that carry the SHA-256 of their content."""

import hashlib
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from configs.errors import UserError
from configs.files import written_whole

_DIGEST = b"content_sha256"


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a parquet file, whole or not at all; `table` without its index. Creates the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    found = pa.Table.from_pandas(table, preserve_index=False)
    digest = content_sha256(found.to_pandas()).encode()
    found = found.replace_schema_metadata({**(found.schema.metadata or {}), _DIGEST: digest})
    with written_whole(path) as file:
        pq.write_table(found, file, write_page_checksum=True)


def read_table(path: Path) -> pd.DataFrame:
    """What `write_table` wrote. Raises UserError if it is missing, damaged, or of another origin.

    The checksums that parquet has are those of its pages: a bit of a footer or of a page's header may change values
    all the same, so the content is compared with its digest.
    """
    try:
        if not path.is_file():  # reading a pipe would wait for ever
            raise FileNotFoundError("there is no such file")
        found = pq.read_table(path, page_checksum_verification=True)
        table: pd.DataFrame = found.to_pandas()
        if content_sha256(table).encode() != (found.schema.metadata or {}).get(_DIGEST):
            raise ValueError("its content is not what its SHA-256 says")
    # Damaged metadata raises whatever its reader fails on first.
    except Exception as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise UserError(f"{path} is missing or damaged ({reason}): make it again") from error
    return table


def content_sha256(table: pd.DataFrame) -> str:
    """SHA-256 of the names, dtypes and values of all columns, in their order."""
    digest = hashlib.sha256()
    for name, column in table.items():
        values = column.to_numpy()
        digest.update(f"{name} {values.dtype} {len(values)}\n".encode())
        digest.update("\n".join(map(repr, values)).encode() if values.dtype == object else values.tobytes())
    return digest.hexdigest()
