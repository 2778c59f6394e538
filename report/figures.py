"""PNG figures of trained members, and the style that all line and bar figures share."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from configs.colours import COLOURS, INK, MUTED
from engine.records import epoch_lines

_AUCS = {"auc": "merged", "auc_2019": "2019 only", "auc_2020": "2020 only"}


def member_curves(folder: Path, path: Path) -> None:
    """Plot one member's training loss and validation AUCs by epoch, from the metrics.jsonl in `folder`."""
    lines = epoch_lines(folder)
    aucs = {label: [line[name] for line in lines] for name, label in _AUCS.items()}
    last = {label: float("nan") if values[-1] is None else values[-1] for label, values in aucs.items()}
    labelled = {f"{label} {last[label]:.3f}": values for label, values in aucs.items()}
    _curves({"": _losses(lines)}, labelled, "validation AUC; after the last epoch:", path)


def training_curves(members: dict[str, Path], path: Path) -> None:
    """Plot training loss and validation AUC by epoch; `members` maps a name to the folder of its metrics.jsonl."""
    lines = {name: epoch_lines(folder) for name, folder in members.items()}
    aucs = {name: [line["auc"] for line in some] for name, some in lines.items()}
    _curves({name: _losses(some) for name, some in lines.items()}, aucs, "validation AUC", path)


def _losses(lines: list[dict[str, Any]]) -> list[float | None]:
    return [line["train_loss"] for line in lines]


def _curves(
    losses: Mapping[str, Sequence[float | None]], aucs: Mapping[str, Sequence[float | None]], title: str, path: Path
) -> None:
    figure = new_figure(9.0, 3.6)
    left, right = figure.subplots(1, 2)
    for axis, curves, heading in ((left, losses, "training loss (weighted, smoothed)"), (right, aucs, title)):
        for number, (name, values) in enumerate(curves.items()):
            known = [float("nan") if value is None else value for value in values]
            colour = COLOURS[number % len(COLOURS)]
            axis.plot(range(1, len(known) + 1), known, color=colour, marker="o", markersize=3, label=name)
        finish_axis(axis, heading)
        axis.set_xlabel("epoch", color=INK)
        axis.xaxis.get_major_locator().set_params(integer=True)
    right.legend(frameon=False, fontsize=8)
    save_figure(figure, path)


def auc_bars(scores: dict[str, tuple[float, float, float]], best: float, path: Path) -> None:
    """Plot the AUC of each name with its 95 % interval (value, low, high), and a line at the best possible AUC."""
    figure = new_figure(7.0, 0.42 * len(scores) + 1.2)
    axis = figure.subplots()
    names = list(scores)
    for place, name in enumerate(reversed(names)):
        value, low, high = scores[name]
        axis.barh(place, value - 0.5, left=0.5, height=0.6, color=COLOURS[0] if place == 0 else "#9fb3c8")
        axis.plot([low, high], [place, place], color=INK, linewidth=1.5)
        axis.text(0.506, place, f"{value:.3f}", va="center", fontsize=8, color="white" if place == 0 else INK)
    axis.axvline(best, color=COLOURS[1], linewidth=1.5)
    axis.text(best - 0.004, len(names) - 0.35, f"best possible {best:.3f}", color=COLOURS[1], fontsize=8, ha="right")
    axis.set_yticks(range(len(names)), reversed(names), fontsize=8)
    axis.set_xlim(0.5, 1.0)
    finish_axis(axis, "AUC on the test images, 95 % interval")
    save_figure(figure, path)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches."""
    return Figure(figsize=(width, height), layout="constrained")


def finish_axis(axis: Any, title: str) -> None:
    """Set title, spines, ticks and grid."""
    axis.set_title(title, fontsize=10, color=INK, loc="left")
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(colors=MUTED, labelsize=8)
    axis.grid(alpha=0.2)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, format="png")
