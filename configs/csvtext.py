"""Any CSV file as a table of strings: comma, semicolon or tab, UTF-8 or UTF-16, as spreadsheets save them.

What can be read without a doubt is read, and a note says how; the rest is refused with its cause, line and remedy.
"""

import codecs
import csv
import io
import re
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

from configs.errors import UserError, nearest_path, note

_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
# First bytes, in lower case, of other files that people save under the name of a CSV.
_OTHER_FILES = {
    b"pk\x03\x04": "a zip or an Excel workbook: unpack it, or save it as CSV UTF-8",
    b"\xd0\xcf\x11\xe0": "an Excel workbook: save it as CSV UTF-8",
    b"\x1f\x8b": "compressed with gzip: unpack it",
    b"par1": "a Parquet file: save it as CSV",
    b"version https://git-lfs": "a pointer of Git LFS: run git lfs pull",
    b"<!doctype": "a web page: log in and download the file itself",
    b"<html": "a web page: log in and download the file itself",
}
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
_LINE_END = re.compile("\r\n|\r|\n")
_DECIMAL_COMMA = r"([-+]?\d*),(\d+)"


def read_text(path: Path, remedy: str = "check its name") -> pd.DataFrame:
    """Every cell of a CSV as a stripped string, empty where the file has nothing; blank rows are left out.

    The columns are the words of the header. The index is the line in the file minus two: 0 for the line after a header
    in the first line. Raises UserError, with the `remedy` where there is no such file.
    """
    text, above = _from_header(_decoded(path, remedy))
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    line = text.split("\n", maxsplit=1)[0]
    unquoted = re.sub('"[^"]*"', "", line)
    separator = max(_SEPARATORS, key=unquoted.count)  # the comma where two occur as often
    if separator != ",":
        note(f"{path}: read as separated by {_SEPARATORS[separator]}")
    try:
        header = [word.strip() for word in next(csv.reader([line], delimiter=separator), [])]
    except csv.Error as error:
        raise UserError(f"{path} is not a CSV file: its header cannot be read: {error}") from error
    if not any(header):
        raise UserError(f"{path} is not a CSV file: it is empty; download it again")
    rows = _cells(path, text, separator, len(header), above)
    rows.columns = pd.Index(header, dtype="str")
    rows.index += above
    return rows[(rows != "").any(axis=1)]


def numbers(cells: pd.Series, file: Path | str | None) -> pd.Series:
    """Cells of `read_text` as float64 [N], NaN where a cell is empty or no number; 0,5 is read as 0.5."""
    plain = cells
    if cells.str.fullmatch(_DECIMAL_COMMA, na=False).any():
        plain = cells.str.replace(_DECIMAL_COMMA, r"\1.\2", regex=True)
        note(f"{file or cells.name}: decimal commas are read as points")
    found = pd.to_numeric(plain, errors="coerce").astype("float64")
    return found.where(np.isfinite(found))


def shown(cell: object) -> str:
    """A cell of `read_text` as the file has it, for a message; a missing one is no string."""
    return repr(cell) if isinstance(cell, str) and cell else "nothing"


def _decoded(path: Path, remedy: str) -> str:
    """The file's text. Raises UserError where it is no text, naming the line."""
    if not path.is_file():
        if path.exists():
            raise UserError(f"{path} is not a file: name the CSV file itself")
        raise UserError(f"{path} does not exist{nearest_path(path) or ': ' + remedy}")
    content = path.read_bytes()
    for first, what in _OTHER_FILES.items():
        if content[:64].lstrip().lower().startswith(first):
            raise UserError(f"{path} is not a CSV file but {what}")
    mark = next((mark for mark in _MARKS if content.startswith(mark)), b"")
    encoding = _MARKS.get(mark) or _guessed(content)
    if encoding != "utf-8":
        note(f"{path}: read as {encoding[:6].upper()}")
    try:
        text = content[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        line = 1 + len(_LINE_END.findall(content[: len(mark) + error.start].decode("latin-1")))
        what = f"byte {error.object[error.start]:#04x} is no {encoding.upper()}"
        raise UserError(f"{path} is not a CSV file: line {line}: {what}; save it as CSV UTF-8") from error
    if "\0" in text:
        line = 1 + len(_LINE_END.findall(text[: text.index("\0")]))
        raise UserError(f"{path} is not a CSV file: line {line} holds a NUL byte; copy or download it again")
    return text


def _guessed(content: bytes) -> str:
    """UTF-16 without a mark shows in the header, whose letters leave every other byte zero; else UTF-8."""
    head = content[:64]
    if len(head) >= 4 and len(content) % 2 == 0:
        for start, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):
            if not any(head[start::2]) and all(head[1 - start :: 2]):
                return encoding
    return "utf-8"


def _from_header(text: str) -> tuple[str, int]:
    """The text from its header on, and the number of lines above: blank ones, and Excel's sep=; hint."""
    above = re.match(r"(?:[ \t]*(?:\r\n|\r|\n))*(?:sep=.(?:\r\n|\r|\n))?", text)
    assert above is not None  # it matches nothing, too
    return text[above.end() :], len(_LINE_END.findall(above[0]))


def _cells(path: Path, text: str, separator: str, width: int, above: int) -> pd.DataFrame:
    """The lines below the header, as `width` columns of strings."""
    try:
        with warnings.catch_warnings():
            # Without index_col=False, pandas takes the first field of rows longer than the header for an index.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            rows = pd.read_csv(
                io.StringIO(text),
                sep=separator,
                names=list(range(width)),
                skiprows=1,
                dtype="str",
                keep_default_na=False,
                index_col=False,
                skip_blank_lines=False,
            )
    except pd.errors.EmptyDataError:
        return pd.DataFrame({column: pd.Series([], dtype="str") for column in range(width)})
    except (pd.errors.ParserError, pd.errors.ParserWarning) as error:
        why = _longer_line(text, separator, width, above) or f"{error}; download it again"
        raise UserError(f"{path} is not a CSV file: {why}") from error
    return pd.DataFrame({column: rows[column].fillna("").str.strip() for column in rows})


def _longer_line(text: str, separator: str, width: int, above: int) -> str:
    """The first line with more fields than the header, in words; empty where there is none."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    try:
        for fields in reader:
            if len(fields) > width:
                what = f"line {reader.line_num + above} has {len(fields)} fields, the header {width}"
                return f"{what}; put a field that holds a separator in quotes"
    except csv.Error:
        pass
    return ""
