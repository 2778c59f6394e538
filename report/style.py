"""The style that all figures share, and how they become PNG."""

import io
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from configs.colours import INK, MUTED
from configs.files import written_whole


def panels(count: int, *, rows: int = 1, width: float = 4.5, height: float = 3.6) -> tuple[Figure, list[Any]]:
    """A figure of `count` panels in `rows` rows, each `width` x `height` inches, and their axes."""
    columns = -(-count // rows)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for axis in axes[count:]:
        axis.remove()
    return figure, axes[:count]


def finish(axis: Any, title: str, x: str = "", y: str = "") -> None:
    """Title, labels, grid and quiet ticks of a panel."""
    axis.set_title(title, fontsize=10, color=INK, loc="left")
    axis.set_xlabel(x, color=INK, fontsize=9)
    axis.set_ylabel(y, color=INK, fontsize=9)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(colors=MUTED, labelsize=8)
    axis.grid(alpha=0.2)


def png(figure: Figure | bytes) -> bytes:
    """The bytes of a PNG, the same for the same figure."""
    if isinstance(figure, bytes):
        return figure
    out = io.BytesIO()
    figure.savefig(out, dpi=150, format="png")
    return out.getvalue()


def save(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as file:
        file.write(png(figure))
