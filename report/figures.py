"""PNG figures of trained members."""

from math import nan
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from configs.colours import COLOURS, INK
from engine.records import epoch_lines
from report.style import finish, panels, save

_AUCS = {"auc": "merged", "auc_2019": "2019 only", "auc_2020": "2020 only"}


def member_curves(folder: Path, path: Path) -> None:
    """Plot one member's training loss and any validation AUCs by epoch, from the metrics.jsonl in `folder`."""
    lines = epoch_lines(folder)
    aucs = {label: _series(lines, name) for name, label in _AUCS.items() if lines and name in lines[-1]}
    labelled = {f"{label} {values[-1]:.3f}": [values] for label, values in aucs.items()}
    save(_curves({"": [_series(lines, "train_loss")]}, labelled, "validation AUC; after the last epoch:"), path)


def training_curves(models: dict[str, list[Path]]) -> Figure:
    """Training loss and validation AUC by epoch; `models` maps a name to the folders of its members' metrics.jsonl."""
    losses, aucs = {}, {}
    for name, folders in models.items():
        lines = [found for found in map(epoch_lines, folders) if found]
        losses[name] = [_series(some, "train_loss") for some in lines]
        aucs[name] = [_series(some, "auc") for some in lines if "auc" in some[-1]]
    return _curves(losses, {name: some for name, some in aucs.items() if some}, "validation AUC")


def _series(lines: list[dict[str, Any]], name: str) -> list[float]:
    values = [line.get(name) for line in lines]
    return [nan if value is None else value for value in values]


def _curves(losses: dict[str, list[list[float]]], aucs: dict[str, list[list[float]]], title: str) -> Figure:
    """Curves of one name have one colour."""
    shown = [(losses, "training loss (weighted, smoothed)"), *([(aucs, title)] if aucs else [])]
    figure, axes = panels(len(shown))
    for axis, (curves, heading) in zip(axes, shown, strict=True):
        for number, (name, group) in enumerate(curves.items()):
            style = {"color": COLOURS[number % len(COLOURS)], "marker": "o", "markersize": 3}
            for place, values in enumerate(group):
                axis.plot(range(1, len(values) + 1), values, label=None if place else name, **style)
        finish(axis, heading, "epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    if aucs:
        axes[-1].legend(frameon=False, fontsize=8)
    return figure


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
    finish(axis, "AUC on the test images, 95 % interval")
    save(figure, path)
