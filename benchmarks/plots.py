"""The pictures of a record: loaders as bars, sweeps as points with their line."""

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import TITLES, LoaderFigures, Record, Sweep

_INK, _OURS = "#1f2933", "#0b6e8f"
_COLOURS = {"ours": _OURS, "peer": "#b8c4ce", "limit": "#e0a96d"}
_MEMORY = "#b5504b"


def draw(record: Record, stem: Path) -> None:
    """Write STEM_loaders.png and STEM_scaling.png, as far as the record has them."""
    if record.loaders:
        _loaders(record, stem.with_name(f"{stem.name}_loaders.png"))
    if record.scaling:
        _sweeps(record.scaling, stem.with_name(f"{stem.name}_scaling.png"))


def _loaders(record: Record, path: Path) -> None:
    from matplotlib.figure import Figure

    workloads = [name for name in TITLES if any(one.workload == name for one in record.loaders)]
    bars = {name: _bars([one for one in record.loaders if one.workload == name]) for name in workloads}
    rows = max(len(some) for some in bars.values())
    figure = Figure(figsize=(6.2 * len(workloads), 0.32 * rows + 1.2), layout="constrained")
    for axis, name in zip(figure.subplots(1, len(workloads), squeeze=False)[0], workloads, strict=True):
        for place, one in enumerate(bars[name]):
            rate = one.images_per_s
            assert rate is not None
            axis.barh(place, rate.median, color=_COLOURS[one.kind])
            axis.plot([rate.low, rate.high], [place, place], color=_INK, linewidth=1)
            axis.text(max(rate.high, rate.median), place, f" {rate.median:,.0f}", va="center", fontsize=8, color=_INK)
        axis.set_yticks(range(len(bars[name])), [one.name for one in bars[name]], fontsize=8)
        axis.set_xlim(right=1.15 * max(one.images_per_s.high for one in bars[name] if one.images_per_s))
        axis.set_title(f"images/s, {TITLES[name]}", fontsize=10, loc="left", color=_INK)
        _plain(axis)
    figure.savefig(path, dpi=110)


def _bars(some: list[LoaderFigures]) -> list[LoaderFigures]:
    return sorted(
        (one for one in some if one.images_per_s), key=lambda one: one.images_per_s.median if one.images_per_s else 0
    )


def _sweeps(sweeps: list[Sweep], path: Path) -> None:
    from matplotlib.figure import Figure

    columns = min(3, len(sweeps))
    rows = -(-len(sweeps) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.4 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes[len(sweeps) :]:
        axis.remove()
    for axis, one in zip(axes, sweeps, strict=False):
        x = np.array([point.x for point in one.points])
        middle, low, high = (
            np.array([getattr(point.y, name) for point in one.points]) for name in ("median", "low", "high")
        )
        axis.errorbar(x, middle, yerr=[middle - low, high - middle], fmt="o", color=_OURS, capsize=3)
        axis.plot(x[: one.fitted], one.intercept + one.slope * x[: one.fitted], color=_OURS, linewidth=1)
        axis.set(xlabel=one.x_label, ylabel=one.y_label, ylim=(0, 1.2 * high.max()))
        axis.set_title(one.name, fontsize=10, loc="left", color=_INK)
        memory = axis.twinx()
        memory.plot(x, [point.memory_mib for point in one.points], "s--", color=_MEMORY, markersize=4, linewidth=1)
        memory.set(ylim=(0, 1.6 * max(point.memory_mib or 0.0 for point in one.points)))
        memory.set_ylabel("MiB", color=_MEMORY)
        memory.tick_params(colors=_MEMORY)
        memory.spines["top"].set_visible(False)
        _plain(axis)
    figure.savefig(path, dpi=110)


def _plain(axis: Any) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8)
