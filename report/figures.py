"""PNG figures of trained members."""

import json
from pathlib import Path
from typing import Any

import matplotlib.figure

_INK, _MUTED = "#1f2933", "#7b8794"
_COLOURS = ("#0b6e99", "#d1495b", "#66a182", "#edae49", "#6c4f9e", "#5c677d")


def training_curves(members: dict[str, Path], path: Path) -> None:
    """Loss and validation AUC by epoch; `members` maps a name to the folder that holds its metrics.jsonl."""
    figure = _figure(9.0, 3.6)
    loss, area = figure.subplots(1, 2)
    for number, (name, folder) in enumerate(members.items()):
        lines: list[dict[str, Any]] = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        epochs = [line["epoch"] + 1 for line in lines]
        colour = _COLOURS[number % len(_COLOURS)]
        loss.plot(epochs, [line["train_loss"] for line in lines], color=colour, label=name)
        area.plot(epochs, [line["auc"] for line in lines], color=colour, marker="o", markersize=3, label=name)
    for axis, title in ((loss, "training loss (weighted, smoothed)"), (area, "validation AUC")):
        _plain(axis, title)
        axis.set_xlabel("epoch", color=_INK)
        axis.xaxis.get_major_locator().set_params(integer=True)
    area.legend(frameon=False, fontsize=8)
    _save(figure, path)


def auc_bars(scores: dict[str, tuple[float, float, float]], best: float, path: Path) -> None:
    """AUC with its 95 % interval (value, low, high) of each name, beside the best possible one."""
    figure = _figure(7.0, 0.42 * len(scores) + 1.2)
    axis = figure.subplots()
    names = list(scores)
    for place, name in enumerate(reversed(names)):
        value, low, high = scores[name]
        axis.barh(place, value - 0.5, left=0.5, height=0.6, color=_COLOURS[0] if place == 0 else "#9fb3c8")
        axis.plot([low, high], [place, place], color=_INK, linewidth=1.5)
        axis.text(0.506, place, f"{value:.3f}", va="center", fontsize=8, color="white" if place == 0 else _INK)
    axis.axvline(best, color=_COLOURS[1], linewidth=1.5)
    axis.text(best - 0.004, len(names) - 0.35, f"best possible {best:.3f}", color=_COLOURS[1], fontsize=8, ha="right")
    axis.set_yticks(range(len(names)), reversed(names), fontsize=8)
    axis.set_xlim(0.5, 1.0)
    _plain(axis, "AUC on the test images, 95 % interval")
    _save(figure, path)


def _figure(width: float, height: float) -> matplotlib.figure.Figure:
    return matplotlib.figure.Figure(figsize=(width, height), layout="constrained")


def _plain(axis: Any, title: str) -> None:
    axis.set_title(title, fontsize=10, color=_INK, loc="left")
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(colors=_MUTED, labelsize=8)
    axis.grid(alpha=0.2)


def _save(figure: matplotlib.figure.Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
