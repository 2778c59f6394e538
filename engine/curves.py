"""training_curves.png of a member, and the style that all line and bar figures share."""

import json
from pathlib import Path
from typing import Any

import matplotlib.figure

INK, MUTED = "#1f2933", "#7b8794"
COLOURS = ("#0b6e99", "#d1495b", "#66a182", "#edae49", "#6c4f9e", "#5c677d")
_AREAS = {"auc": "merged", "auc_2019": "2019 only", "auc_2020": "2020 only"}


def epoch_lines(folder: Path) -> list[dict[str, Any]]:
    """The lines of whole epochs in a member's metrics.jsonl."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "step" not in line]


def member_curves(folder: Path, path: Path) -> None:
    """Losses and validation AUCs of one member by epoch."""
    lines = epoch_lines(folder)
    epochs = [line["epoch"] + 1 for line in lines]
    figure = new_figure(9.0, 3.6)
    loss, area = figure.subplots(1, 2)
    loss.plot(epochs, [line["train_loss"] for line in lines], color=COLOURS[0], marker="o", markersize=3)
    for colour, (name, words) in zip(COLOURS, _AREAS.items(), strict=False):
        values = [float("nan") if line[name] is None else line[name] for line in lines]
        area.plot(epochs, values, color=colour, marker="o", markersize=3, label=f"{words} {values[-1]:.3f}")
    finish_axis(loss, "training loss (weighted, smoothed)")
    finish_axis(area, "validation AUC; after the last epoch:")
    for axis in (loss, area):
        axis.set_xlabel("epoch", color=INK)
        axis.xaxis.get_major_locator().set_params(integer=True)
    area.legend(frameon=False, fontsize=8)
    save_figure(figure, path)


def new_figure(width: float, height: float) -> matplotlib.figure.Figure:
    """An empty figure, in inches."""
    return matplotlib.figure.Figure(figsize=(width, height), layout="constrained")


def finish_axis(axis: Any, title: str) -> None:
    """Title, spines, ticks and grid."""
    axis.set_title(title, fontsize=10, color=INK, loc="left")
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(colors=MUTED, labelsize=8)
    axis.grid(alpha=0.2)


def save_figure(figure: matplotlib.figure.Figure, path: Path) -> None:
    """Write a PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, format="png")
