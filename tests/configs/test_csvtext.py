"""CSV files as spreadsheets, editors and broken downloads leave them: read alike, or refused with the line."""

import codecs
import os
import sys
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.csvtext import numbers, read_text
from configs.errors import UserError

ROWS = [["ISIC_1", "a, b", "0.5"], ["ISIC_2", "", "1"], ["ISIC_3", 'said "ä; x"', "-1"]]
HEADER = ["image_name", "note", "age"]


def written(path: Path, separator: str, encoding: str, mark: bytes, line_end: str, above: str = "") -> Path:
    text = above + pd.DataFrame(ROWS, columns=HEADER).to_csv(index=False, sep=separator, lineterminator="\n")
    path.write_bytes(mark + text.replace("\n", line_end).encode(encoding))
    return path


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize(
    ("encoding", "mark"),
    [
        ("utf-8", b""),
        ("utf-8", codecs.BOM_UTF8),
        ("utf-16-le", codecs.BOM_UTF16_LE),
        ("utf-16-be", codecs.BOM_UTF16_BE),
        ("utf-16-le", b""),
        ("utf-16-be", b""),
        ("utf-32-le", codecs.BOM_UTF32_LE),
    ],
)
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_every_way_to_save_a_table_gives_the_same_cells(
    separator: str, encoding: str, mark: bytes, line_end: str, tmp_path: Path
) -> None:
    found = read_text(written(tmp_path / "a.csv", separator, encoding, mark, line_end))
    assert found.columns.tolist() == HEADER
    assert found.to_numpy().tolist() == ROWS
    assert found.index.tolist() == [0, 1, 2]


@pytest.mark.parametrize(("above", "lines"), [("sep=;\n", 1), ("\n \n", 2), ("\nsep=;\n", 2)])
def test_lines_above_the_header_do_not_change_the_line_that_is_named(above: str, lines: int, tmp_path: Path) -> None:
    found = read_text(written(tmp_path / "a.csv", ";", "utf-8", b"", "\n", above))
    assert found.index.tolist() == [lines, lines + 1, lines + 2]
    assert found.to_numpy().tolist() == ROWS


def test_how_a_table_was_understood_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path / "a.csv", ";", "utf-16-le", codecs.BOM_UTF16_LE, "\n")
    read_text(path)
    read_text(path)
    said = capsys.readouterr().err.splitlines()
    assert said == [f"note: {path}: read as UTF-16", f"note: {path}: read as separated by semicolons"]
    read_text(written(tmp_path / "b.csv", ",", "utf-8", b"", "\n"))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "it is empty"),
        (b"\n\n\n", "it is empty"),
        (b"a,b\n1,2\n3,\xe4\n", "line 3: byte 0xe4 is no UTF-8"),
        (b"a,b\n1,2\n3,\x00\n", "line 3 holds a NUL byte"),
        (b"a,b\n1,2\n3,4,5\n", "line 3 has 3 fields, the header 2"),
        (b"sep=,\na,b\n3,4,5\n", "line 3 has 3 fields, the header 2"),
        (b'a,b\n1,"2\n3,4\n', "EOF inside string"),
        (b"PK\x03\x04 and more", "Excel workbook"),
        (b"\x1f\x8b\x08\x00", "gzip"),
        (b"PAR1....", "Parquet"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"\n<!DOCTYPE html>\n<html>", "a web page"),
        (b"\xff\xfea", "no UTF-16-LE"),
    ],
)
def test_what_is_no_table_is_refused_with_its_cause(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match="is not a CSV file") as raised:
        read_text(path)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.skipif(sys.platform == "win32", reason="needs FIFOs")
@pytest.mark.parametrize("kind", ["fifo", "device", "folder", "absent"])
def test_what_is_no_file_is_refused_at_once(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    (tmp_path / "trains.csv").touch()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    said = "did you mean .*trains.csv" if kind == "absent" else "is not a file"
    with pytest.raises(UserError, match=said):
        read_text(path)


def test_decimal_commas_are_numbers_and_words_are_not(tmp_path: Path) -> None:
    cells = pd.Series(["0,5", "-1,25", "3", "", "1e3", "1,2,3", "inf", "x", None], dtype="str")
    found = numbers(cells, tmp_path)
    assert found.fillna(-9).tolist() == [0.5, -1.25, 3, -9, 1000, -9, -9, -9, -9]


@given(content=st.binary(max_size=200))
def test_any_bytes_are_a_table_or_an_error_of_one_line(
    content: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_bytes(content)
    try:
        read_text(path)
    except UserError as error:
        assert str(error).isprintable()  # noqa: PT017


@settings(max_examples=60)
@given(
    rows=st.lists(st.tuples(st.text("aä1 ;,\t\"'", max_size=6), st.text("b-2.,;", max_size=6)), min_size=1, max_size=6),
    separator=st.sampled_from(",;\t"),
)
def test_what_a_writer_quotes_is_read_back(
    rows: list[tuple[str, str]], separator: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "quoted.csv"
    table = pd.DataFrame([("name", *row) for row in rows], columns=["key", "one", "two"])
    table.to_csv(path, index=False, sep=separator)
    assert read_text(path).to_numpy().tolist() == [[cell.strip() for cell in row] for row in table.to_numpy().tolist()]
