import csv
import io
import math
from pathlib import Path

import pytest

from evaluation.discrimination import Estimate
from report.page import Picture, Section, Table
from report.style import panels
from report.write import Page, csv_of, html, markdown, shown, write_page

NAN = math.nan


def page(*sections: Section) -> Page:
    return Page(title="T", subtitle="S", warnings=[], verdict=["V"], sections=sections, footer="F")


def test_a_csv_keeps_full_precision_and_gives_an_interval_three_columns() -> None:
    rows = [
        {"model": "a, b", "AUC": Estimate(1 / 3, 0.25, 0.5), "rows": 1234},
        {"model": "none", "AUC": Estimate(NAN, NAN, NAN), "rows": None},
        {"model": "few", "AUC": "too few", "rows": 3},
    ]
    read = list(csv.DictReader(io.StringIO(csv_of(Table(name="t", caption="c", rows=rows)))))
    assert list(read[0]) == ["model", "AUC", "AUC_low", "AUC_high", "rows"]
    assert float(read[0]["AUC"]) == 1 / 3
    assert read[0]["model"] == "a, b"
    assert [read[1][name] for name in ("AUC", "AUC_low", "rows")] == ["", "", ""]
    assert read[2]["AUC"] == "too few"


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (Estimate(0.849, 0.829, 0.869), "0.849 (0.829 to 0.869)"),
        (Estimate(0.5, NAN, NAN), "0.500"),
        (Estimate(NAN, NAN, NAN), "-"),
        (NAN, "-"),
        (None, "-"),
        (58457, "58,457"),
        (1234.5, "1,234"),
        (-0.25, "-0.250"),
        ("too few", "too few"),
    ],
)
def test_cells_are_shown_as_people_read_them(cell: object, text: str) -> None:
    assert shown(cell) == text


def test_words_of_the_data_cannot_become_markup() -> None:
    hostile = "<script>alert('x')</script>|[a](b)"
    table = Table(name="t", caption=hostile, rows=[{hostile: hostile}])
    folded = Table(name="u", caption=hostile, rows=[{"a": hostile}], folded=True)
    made = page(Section(title=hostile, lead=hostile, parts=[hostile, table, folded]))
    assert "<script>" not in html(made, {})
    cells = [line for line in markdown(made).splitlines() if line.startswith("| <script>")]
    assert len(cells) == 3, "a heading and two cells"
    assert all(r"\|(a)(b)" in line for line in cells)


def test_two_parts_of_one_name_are_an_error(tmp_path: Path) -> None:
    figure, _ = panels(1)
    twice = [Picture(name="p", figure=figure, caption="c")] * 2
    with pytest.raises(ValueError, match="used twice"):
        write_page(page(Section(title="s", lead="l", parts=twice)), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_table_has_a_place_on_the_page(tmp_path: Path) -> None:
    write_page(page(Section(title="s", lead="l", parts=[Table(name="t", caption="nothing", rows=[])])), tmp_path)
    assert "nothing" in (tmp_path / "report.html").read_text()
    assert "nothing" in (tmp_path / "report.md").read_text()
