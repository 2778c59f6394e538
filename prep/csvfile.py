"""A CSV file as a table of checked columns; every error names the file, the line, the column and the value."""

import warnings
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

import numpy as np
import pandas as pd

from configs.errors import UserError

_NOTHING = ["", "NA", "N/A", "nan", "NaN", "null", "-1", "-1.0"]  # resized sets write -1
NAME = "[A-Za-z0-9_-]{1,90}"
"""Pattern of an image's name, which becomes a file name in a tar and a word in its DALI index."""


def read_csv(
    path: Path, columns: Mapping[str, Sequence[str]], optional: Sequence[str] = (), *, pattern: str | None = NAME
) -> pd.DataFrame:
    """The columns of a CSV under our names, as stripped strings, empty cells as missing.

    `columns` maps each of our names to the headers it may have, of which the first one found is read; columns in
    `optional` may be absent, and are then all missing. The first column is the image's name, unique and matching
    `pattern`, unless that is None. The index counts the lines after the header. Raises UserError.
    """
    found = _read_strings(path)
    rows = pd.DataFrame(index=found.index)
    for name, headers in columns.items():
        header = next((each for each in headers if each in found.columns), None)
        if header is None and name not in optional:
            raise UserError(f"{path} lacks the column {' or '.join(headers)}; it has {', '.join(found.columns)}")
        missing = pd.Series(np.nan, index=found.index, dtype="str")
        rows[name] = missing if header is None else found[header].str.strip()
        rows.attrs[name] = header or name  # for error messages
    if pattern is not None:
        key = rows[rows.columns[0]]
        header = rows.attrs[rows.columns[0]]
        require_rows(key.notna(), key, path, header, "an image name in every row")
        require_rows(key.str.fullmatch(pattern), key, path, header, "a name of letters, digits, - and _")
        require_rows(~key.duplicated(), key, path, header, "each name once")
    return rows


def require_rows(good: pd.Series, shown: pd.Series, csv: Path | None, column: str, wanted: str) -> None:
    """Raise UserError with the first row that is not `good`; the index of `shown` is that of `read_csv`.

    Without a `csv` the column is an option of the command line.
    """
    bad = np.flatnonzero(~good.to_numpy(dtype=bool))
    if len(bad):
        line, value = shown.index[bad[0]] + 2, shown.iloc[bad[0]]
        if csv is None:
            raise UserError(f"--{column} {value}: wanted {wanted}")
        raise UserError(f"{csv} line {line}, column {column}: {value!r}, wanted {wanted} ({len(bad)} such rows)")


def words(
    rows: pd.DataFrame, name: str, known: Sequence[str], csv: Path | None, synonyms: Mapping[str, str] | None = None
) -> pd.Series:
    """Column `name` in lower case, each value one of `known` after `synonyms`; "unknown" is missing.

    Raises UserError as `require_rows`, with the known word that resembles the value.
    """
    values, synonyms = rows[name], dict(synonyms or {})
    lowered = values.str.lower().replace(synonyms)
    lowered = lowered.mask(lowered == "unknown")
    good, wanted = lowered.isna() | lowered.isin(known), " or ".join(known)
    for nearest in get_close_matches(next(iter(lowered[~good]), ""), [*known, *synonyms], n=1):
        wanted += f", perhaps {nearest}"
    require_rows(good, values, csv, rows.attrs.get(name, name), wanted)
    return lowered


def whole_numbers(rows: pd.DataFrame, name: str, known: Sequence[int], csv: Path, wanted: str = "") -> pd.Series:
    """Column `name`, each value one of `known`, as int64 [N]; `wanted` describes them in the error."""
    numbers = pd.to_numeric(rows[name], errors="coerce")
    wanted = wanted or " or ".join(map(str, known))
    require_rows(numbers.isin(known), rows[name], csv, rows.attrs.get(name, name), wanted)
    return numbers.astype("int64")


def ages(rows: pd.DataFrame, name: str, csv: Path | None) -> pd.Series:
    """Column `name` in years as float64 [N], NaN where missing."""
    years = pd.to_numeric(rows[name], errors="coerce")
    good = rows[name].isna() | years.between(0, 120)
    require_rows(good, rows[name], csv, rows.attrs.get(name, name), "an age of 0 to 120 years")
    return years.astype("float64")


def _read_strings(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise UserError(f"{path} does not exist: unpack the ISIC download there, or name its folder")
    try:
        with warnings.catch_warnings():
            # Without index_col=False, pandas takes the first field of rows longer than the header for an index.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            rows = pd.read_csv(
                path,
                dtype="str",
                keep_default_na=False,
                na_values=_NOTHING,
                encoding="utf-8-sig",
                index_col=False,
                skip_blank_lines=False,
            )
            return rows.dropna(how="all")
    except (pd.errors.ParserError, pd.errors.ParserWarning, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a CSV file: {error}; download it again") from error
