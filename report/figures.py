"""PNG figures of trained members."""

from pathlib import Path

from engine.curves import COLOURS, INK, epoch_lines, finish_axis, new_figure, save_figure


def training_curves(members: dict[str, Path], path: Path) -> None:
    """Loss and validation AUC by epoch; `members` maps a name to the folder that holds its metrics.jsonl."""
    figure = new_figure(9.0, 3.6)
    loss, area = figure.subplots(1, 2)
    for number, (name, folder) in enumerate(members.items()):
        lines = epoch_lines(folder)
        epochs = [line["epoch"] + 1 for line in lines]
        colour = COLOURS[number % len(COLOURS)]
        loss.plot(epochs, [line["train_loss"] for line in lines], color=colour, label=name)
        area.plot(epochs, [line["auc"] for line in lines], color=colour, marker="o", markersize=3, label=name)
    for axis, title in ((loss, "training loss (weighted, smoothed)"), (area, "validation AUC")):
        finish_axis(axis, title)
        axis.set_xlabel("epoch", color=INK)
        axis.xaxis.get_major_locator().set_params(integer=True)
    area.legend(frameon=False, fontsize=8)
    save_figure(figure, path)


def auc_bars(scores: dict[str, tuple[float, float, float]], best: float, path: Path) -> None:
    """AUC with its 95 % interval (value, low, high) of each name, beside the best possible one."""
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
