"""What a page is made of: sections of paragraphs, pictures and tables, whatever it is written as."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from evaluation.discrimination import Estimate

Cell = str | int | float | Estimate | None
"""A cell of a table. None and NaN are shown as "-"; an Estimate as "0.849 (0.829 to 0.869)"."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure, written as NAME.png beside the page and into it."""

    name: str
    """File name without its ending, lower case with underscores."""
    figure: Figure | bytes
    """A matplotlib figure (see report.style), or the bytes of a PNG."""
    caption: str
    """What is shown and what to conclude from it, in plain words; also the text for those who cannot see it."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of named cells, written as NAME.csv beside the page and into it."""

    name: str
    """File name without its ending."""
    caption: str
    """What is shown and what to conclude from it."""
    rows: Sequence[Mapping[str, Cell]]
    """Rows with the same columns; the first names them in their order. An Estimate takes three columns of the CSV."""
    folded: bool = False
    """Long tables are folded on the page: shown by a click."""


Part = str | Picture | Table
"""A string is a paragraph of plain text."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """A chapter of the page."""

    title: str
    """Its heading."""
    lead: str
    """Its conclusion in one to three plain sentences with figures."""
    parts: Sequence[Part]
    """Pictures first, then tables."""
    verdict: str = ""
    """One line with key figures and intervals for the top of the page; empty where it has none."""
