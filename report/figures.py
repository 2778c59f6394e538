"""PNG figures of trained members, and the style that all line and bar figures share."""

from math import nan
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from configs.colours import COLOURS, INK, MUTED
from engine.records import epoch_lines

_AUCS = {"auc": "merged", "auc_2019": "2019 only", "auc_2020": "2020 only"}


def member_curves(folder: Path, path: Path) -> None:
    """Plot one member's training loss and any validation AUCs by epoch, from the metrics.jsonl in `folder`."""
    lines = epoch_lines(folder)
    aucs = {label: _series(lines, name) for name, label in _AUCS.items() if name in lines[-1]}
    labelled = {f"{label} {values[-1]:.3f}": values for label, values in aucs.items()}
    _curves({"": _series(lines, "train_loss")}, labelled, "validation AUC; after the last epoch:", path)


def training_curves(members: dict[str, Path], path: Path) -> None:
    """Plot training loss and validation AUC by epoch; `members` maps a name to the folder of its metrics.jsonl."""
    lines = {name: epoch_lines(folder) for name, folder in members.items()}
    losses, aucs = ({name: _series(some, key) for name, some in lines.items()} for key in ("train_loss", "auc"))
    _curves(losses, aucs, "validation AUC", path)


def _series(lines: list[dict[str, Any]], name: str) -> list[float]:
    return [nan if line[name] is None else line[name] for line in lines]


def _curves(losses: dict[str, list[float]], aucs: dict[str, list[float]], title: str, path: Path) -> None:
    panels = [(losses, "training loss (weighted, smoothed)"), *([(aucs, title)] if aucs else [])]
    figure = Figure(figsize=(4.5 * len(panels), 3.6), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (curves, heading) in zip(axes, panels, strict=True):
        for number, (name, values) in enumerate(curves.items()):
            colour = COLOURS[number % len(COLOURS)]
            axis.plot(range(1, len(values) + 1), values, color=colour, marker="o", markersize=3, label=name)
        _finish(axis, heading)
        axis.set_xlabel("epoch", color=INK)
        axis.xaxis.get_major_locator().set_params(integer=True)
    if aucs:
        axes[-1].legend(frameon=False, fontsize=8)
    _save(figure, path)


def auc_bars(scores: dict[str, tuple[float, float, float]], best: float, path: Path) -> None:
    """Plot the AUC of each name with its 95 % interval (value, low, high), and a line at the best possible AUC."""
    figure = Figure(figsize=(7.0, 0.42 * len(scores) + 1.2), layout="constrained")
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
    _finish(axis, "AUC on the test images, 95 % interval")
    _save(figure, path)


def _finish(axis: Any, title: str) -> None:
    axis.set_title(title, fontsize=10, color=INK, loc="left")
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(colors=MUTED, labelsize=8)
    axis.grid(alpha=0.2)


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, format="png")
