"""A page as files: report.html, which holds everything, and report.md with PNGs and CSVs beside it."""

import base64
import csv
import io
import math
import struct
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from configs.files import written_whole
from evaluation.discrimination import Estimate
from report.page import Cell, Part, Picture, Section, Table
from report.style import png

HTML, MARKDOWN = "report.html", "report.md"


@dataclass(frozen=True, kw_only=True)
class Page:
    """What is written."""

    title: str
    """Its heading."""
    subtitle: str
    """What it is about, in a line."""
    warnings: Sequence[str]
    """What must be read before any figure."""
    verdict: Sequence[str]
    """Lines with the key figures."""
    sections: Sequence[Section]
    """The chapters."""
    footer: str
    """What it was made by and of."""


def write_page(page: Page, out: Path) -> None:
    """Write OUT/report.html, OUT/report.md, and NAME.png and NAME.csv of each picture and table with rows, each whole.

    Raises ValueError where two pictures or two tables have one name, which would overwrite each other.
    """
    parts = [part for section in page.sections for part in section.parts]
    pictures = [part for part in parts if isinstance(part, Picture)]
    tables = [part for part in parts if isinstance(part, Table)]
    for kind in (pictures, tables):
        names = [part.name for part in kind]
        if len(set(names)) < len(names):
            raise ValueError(f"a name is used twice: {sorted(names)}")
    drawn = {picture.name: png(picture.figure) for picture in pictures}
    files = {f"{name}.png": content for name, content in drawn.items()}
    files |= {f"{table.name}.csv": csv_of(table).encode() for table in tables if table.rows}
    files |= {MARKDOWN: markdown(page).encode(), HTML: html(page, drawn).encode()}
    out.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        with written_whole(out / name) as file:
            file.write(content)


def html(page: Page, drawn: dict[str, bytes]) -> str:
    """The page as HTML that needs no other file; `drawn` are the PNGs of its pictures by name."""
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True
    )
    images = {}
    for name, content in drawn.items():
        width, height = struct.unpack(">II", content[16:24])  # of the PNG's header
        # Drawn at 150 dots an inch; a CSS inch has 96.
        images[name] = {
            "data": base64.b64encode(content).decode(),
            "width": width * 96 // 150,
            "height": height * 96 // 150,
        }
    return environment.get_template("page.html").render(page=page, images=images, grid=grid)


def grid(table: Table) -> Markup:
    """A table as HTML that scrolls by itself where it is too wide."""
    if not table.rows:
        return Markup("<p>none</p>")
    heads = list(table.rows[0])
    numeric = {head for head in heads if any(isinstance(row[head], int | float | Estimate) for row in table.rows)}
    mark = {head: Markup(' class="number"') if head in numeric else Markup("") for head in heads}
    lines = [Markup("<tr>") + Markup("").join(Markup("<th{}>{}</th>").format(mark[head], head) for head in heads)]
    for row in table.rows:
        cells = (Markup("<td{}>{}</td>").format(mark[head], shown(row[head])) for head in heads)
        lines.append(Markup("<tr>") + Markup("").join(cells))
    body = Markup("</tr>\n").join([*lines, Markup("")])
    return Markup('<div class="scroll"><table>\n{}</table></div>').format(body)


def markdown(page: Page) -> str:
    """The page as Markdown, with its pictures as links to the PNGs beside it."""
    lines = [f"# {page.title}", page.subtitle, *(f"**{line}**" for line in page.warnings)]
    lines += ["\n".join(f"{number}. {line}" for number, line in enumerate(page.verdict, 1))] * bool(page.verdict)
    for section in page.sections:
        lines += [f"## {section.title}", f"**{section.lead}**", *map(_marked_down, section.parts)]
    return "\n\n".join([*lines, page.footer]) + "\n"


def _marked_down(part: Part) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, Picture):
        return f"![{part.name.replace('_', ' ')}]({part.name}.png)\n\n*{part.caption}*"
    if not part.rows:
        return f"{part.caption}: none"
    rows = [[_plain(shown(cell)) for cell in row.values()] for row in part.rows]
    heads = list(part.rows[0])
    grid_lines = (f"| {' | '.join(cells)} |" for cells in ([*map(_plain, heads)], ["---"] * len(heads), *rows))
    return f"{part.caption} ([{part.name}.csv]({part.name}.csv))\n\n" + "\n".join(grid_lines)


def _plain(text: str) -> str:
    return text.replace("|", "\\|").replace("[", "(").replace("]", ")").replace("\n", " ")


def csv_of(table: Table) -> str:
    """A table with rows as CSV with full precision; an Estimate takes the columns NAME, NAME_low and NAME_high."""
    out = io.StringIO()
    heads = list(table.rows[0])
    intervals = {head for head in heads if any(isinstance(row[head], Estimate) for row in table.rows)}
    named = [[head, f"{head}_low", f"{head}_high"] if head in intervals else [head] for head in heads]
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([name for names in named for name in names])
    for row in table.rows:
        cells: list[str] = []
        for head in heads:
            cell = row[head]
            if isinstance(cell, Estimate):
                cells += [_exact(value) for value in asdict(cell).values()]
            else:
                cells += [_exact(cell), *([""] * 2 * (head in intervals))]
        writer.writerow(cells)
    return out.getvalue()


def _exact(value: Cell) -> str:
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else str(value)


def shown(value: Cell) -> str:
    """A cell as people read it."""
    if isinstance(value, Estimate):
        if math.isnan(value.value):
            return "-"
        bounds = "" if math.isnan(value.low) else f" ({shown(value.low)} to {shown(value.high)})"
        return shown(value.value) + bounds
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 100 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else value
