"""A CSV file as a table of checked columns; every error names the file, the line, the column and the value."""

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

import numpy as np
import pandas as pd

from configs.csvtext import numbers, read_text, shown
from configs.errors import UserError, note
from prep.columns import RENAMABLE, spelled
from prep.layout import ENDINGS

_NOTHING = r"(?:NA|N/A|nan|NaN|null|-1|-1\.0)?"  # resized sets write -1
_AS_WRITTEN = ("target", "fold", "year")  # columns in which -1 is no missing value
NAME = "[A-Za-z0-9_-]{1,90}"
"""Pattern of an image's name, which becomes a file name in a tar and a word in its DALI index."""


def read_csv(
    path: Path, columns: Mapping[str, Sequence[str]], optional: Sequence[str] = (), *, pattern: str | None = NAME
) -> pd.DataFrame:
    """The columns of a CSV under our names, as stripped strings, empty cells as missing.

    `columns` maps each of our names to the headers it may have, of which the first one found is read; columns in
    `optional` may be absent, and are then all missing. The first column is the image's name, without the ending of an
    image file, unique and matching `pattern`, unless that is None. The index counts the lines after the header. Raises
    UserError.
    """
    found = read_text(path, "unpack the ISIC download there, or name its folder")
    rows = pd.DataFrame(index=found.index)
    for name, headers in columns.items():
        header = header_of(found.columns, headers, path)
        if header is None and name not in optional:
            raise UserError(
                f"{path} lacks the column {' or '.join(headers)}; {_has(list(found.columns), name, headers)}"
            )
        rows[name] = _nothing(found.index) if header is None else _known(found[header], name)
        rows.attrs[name] = header or name  # for error messages
    _require_one_line(rows, path)
    if pattern is not None:
        if rows.empty:
            raise UserError(f"{path} has no rows below its header: download it again")
        key = rows[rows.columns[0]]
        header = rows.attrs[rows.columns[0]]
        require_rows(key.notna(), key, path, header, "an image name in every row")
        stems = without_endings(key, path) if pattern == NAME else key
        require_rows(stems.str.fullmatch(pattern), key, path, header, "a name of letters, digits, - and _")
        require_rows(~stems.duplicated(), key, path, header, "each name once")
        rows[rows.columns[0]] = stems
    return rows


def header_of(headers: Iterable[str], wanted: Sequence[str], path: Path) -> str | None:
    """The header that is spelled like the first of the `wanted` that there is, None without one.

    Raises UserError where two headers are spelled like it.
    """
    spellings = [(spelled(header), header) for header in headers]
    for name in wanted:
        found = [header for spelling, header in spellings if spelling == spelled(name)]
        if len(found) > 1:
            raise UserError(f"{path} has {len(found)} columns named {' and '.join(found)}: remove all but one")
        if found:
            return found[0]
    return None


def without_endings(names: pd.Series, path: Path) -> pd.Series:
    """Names of images without .jpg or another ending of an image file, and a note if there was one."""
    stems = names.str.replace(rf"(?i)({'|'.join(ENDINGS)})$".replace(".", r"\."), "", regex=True)
    changed = int((stems != names).sum())
    if changed:
        note(f"{path}: the ending is taken off {changed:,} image names, first {names[stems != names].iloc[0]}")
    return stems


def require_rows(good: pd.Series, cells: pd.Series, csv: Path | None, column: str, wanted: str) -> None:
    """Raise UserError with the first row that is not `good`; the index of `cells` is that of `read_csv`.

    Without a `csv` the column is an option of the command line.
    """
    bad = np.flatnonzero(~good.to_numpy(dtype=bool))
    if len(bad):
        line, value = cells.index[bad[0]] + 2, cells.iloc[bad[0]]
        if csv is None:
            raise UserError(f"--{column} {value}: wanted {wanted}")
        raise UserError(f"{csv} line {line}, column {column}: {shown(value)}, wanted {wanted} ({len(bad)} such rows)")


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
    for near in get_close_matches(next(iter(lowered[~good]), ""), [*known, *synonyms], n=1):
        wanted += f", perhaps {near}"
    require_rows(good, values, csv, rows.attrs.get(name, name), wanted)
    return lowered


def whole_numbers(rows: pd.DataFrame, name: str, known: Sequence[int], csv: Path, wanted: str = "") -> pd.Series:
    """Column `name`, each value one of `known`, as int64 [N]; `wanted` describes them in the error."""
    found = numbers(rows[name], csv)
    wanted = wanted or " or ".join(map(str, known))
    require_rows(found.isin(known), rows[name], csv, rows.attrs.get(name, name), wanted)
    return found.astype("int64")


def ages(rows: pd.DataFrame, name: str, csv: Path | None) -> pd.Series:
    """Column `name` in years as float64 [N], NaN where missing."""
    years = numbers(rows[name], csv)
    good = rows[name].isna() | years.between(0, 120)
    require_rows(good, rows[name], csv, rows.attrs.get(name, name), "an age of 0 to 120 years")
    return years


def _nothing(index: pd.Index) -> pd.Series:
    return pd.Series(np.nan, index=index, dtype="str")


def _known(cells: pd.Series, name: str) -> pd.Series:
    """Cells with what stands for nothing as missing; as they are written where -1 is a value."""
    return cells.mask(cells == "" if name in _AS_WRITTEN else cells.str.fullmatch(_NOTHING))


def _require_one_line(rows: pd.DataFrame, path: Path) -> None:
    """A quotation mark that is not closed swallows the lines up to the next one."""
    for name in rows.columns:
        if name in rows.attrs:
            good = ~rows[name].str.contains("\n", na=False, regex=False)
            require_rows(
                good, rows[name].str.slice(0, 40), path, rows.attrs[name], "one line: close its quotation mark"
            )


def _has(headers: Sequence[str], name: str, wanted: Sequence[str]) -> str:
    """What a table has instead of a column, and whether a new name would do."""
    likely = [header for header in headers if spelled(header) in RENAMABLE.get(name, ())]
    likely += [header for one in wanted for header in get_close_matches(one, headers, n=1, cutoff=0.75)]
    remedy = f"; rename the column {likely[0]} to {wanted[0]} if it is that" if likely else ""
    return f"it has {', '.join(headers)}{remedy}"
