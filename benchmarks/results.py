"""RESULTS.md, its picture and the README's table, made from the records in benchmarks/results.

    python -m benchmarks.results

No number there is typed by hand; a test holds both files to the records.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean
from typing import Any

from matplotlib.figure import Figure

from benchmarks.contenders import AGAIN, OURS
from benchmarks.record import RESULTS, ROOT, LoaderFigures, Record, Sweep, TrainingFigures, read
from configs.colours import COLOURS, INK

BEGIN, END = "<!-- measured: python -m benchmarks.results -->", "<!-- end of measured -->"
TITLES = {"flips": "decode and flip", "full": "full augmentation"}
_INTRODUCTION = """# What was measured

Made by `python -m benchmarks.results` from the records in `benchmarks/results`; no number is typed by hand. Compare
figures within a table only: what is in one was measured in turns, in one run. Rates are images/s, medians of the
rounds, with the lowest and the highest in brackets."""
_SWEEPS = {
    "threads": ("threads", "images/s"),
    "ranks": ("ranks on this machine, which share its cores", "images/s, all ranks"),
    "batch": ("images in a batch", "milliseconds per batch"),
    "size": ("thousand pixels per image", "microseconds per image"),
    "samples": ("samples in the set", "microseconds per image"),
}
_OTHERS = {
    "trainer": "Our trainer beside a plain one",
    "sample": "Real images, end to end",
    "demo": "The demo",
    "prep": "Prep beside a bare loop",
}
Other = dict[str, Any]  # a record that is not benchmarks/throughput.py's


def main() -> None:
    """Write RESULTS.md, its pictures, and the table in README.md."""
    records, others = throughput_records(), other_records()
    for name, record in records.items():
        if record.loaders:
            draw_loaders(record, RESULTS / f"{name}_loaders.png")
    (ROOT / "RESULTS.md").write_text(page(records, others))
    path = ROOT / "README.md"
    path.write_text(with_table(path.read_text(), records, others))


def throughput_records() -> dict[str, Record]:
    """Those of benchmarks/throughput.py, by name, in the order of their names."""
    return {path.stem: read(path) for path in sorted(RESULTS.glob("throughput*.json"))}


def other_records() -> dict[str, Other]:
    """Those of the other benchmarks, by name."""
    return {name: json.loads((RESULTS / f"{name}.json").read_text()) for name in _OTHERS}


def page(records: dict[str, Record], others: dict[str, Other]) -> str:
    """RESULTS.md."""
    parts = [throughput(record, f"benchmarks/results/{name}_loaders.png") for name, record in records.items()]
    for name, record in others.items():
        where = f"{record['device']}, torch {record['versions']['torch']}, {record['date']}."
        figures = {key: value for key, value in record.items() if key not in ("what", "device", "versions", "date")}
        parts.append([f"## {_OTHERS[name]}", "", f"{record['what']}. {where}", "", *_figures(figures)])
    return "\n\n".join([_INTRODUCTION, *("\n".join(lines) for lines in parts)]) + "\n"


def with_table(text: str, records: dict[str, Record], others: dict[str, Other]) -> str:
    """README.md's `text`, with everything between the two markers made anew."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n" + "\n".join(_headlines(records, others)) + f"\n{END}{after}"


def throughput(record: Record, picture: str = "") -> list[str]:
    """The section of one record, which shows `picture` where it has loaders."""
    named = [f"`{record.training.backbone}`"] if record.training else []
    named += ["loaders"] if record.loaders else []
    lines = [
        f"## Throughput of {' and '.join(named) or 'the stream'}: {record.device}",
        "",
        f"{record.date}, torch {record.versions['torch']}, {record.images:,} training images of {record.size} px, "
        f"{record.mean_jpeg_bytes / 1000:.0f} KB each on average; {record.config['rounds']} rounds, at least "
        f"{record.config['seconds']:g} s a turn after its warm-up; the run took {record.seconds / 60:.0f} minutes.",
    ]
    lines += ["", f"It ended early: {record.failed}."] if record.failed else []
    lines += _training(record.training) if record.training else []
    bookkeeping = f"order + augmentation parameters, microseconds per step of {record.config['loader_batch_size']}"
    costs = " + ".join(f"{cost:.0f}" for cost in record.costs.values())
    limits = {name: asdict(limit) for name, limit in record.limits.items()}
    lines += ["", *_figures({"limit": limits, bookkeeping: costs})]
    lines += _loaders(record, picture) if record.loaders else []
    return lines + (_scaling(record.scaling) if record.scaling else [])


def _training(found: TrainingFigures) -> list[str]:
    how = ", ".join(f"{name} {value}" for name, value in found.speed.items() if name != "placement")
    row = [rate.words(int(rate.median < 100)) for rate in found.images_per_s.values()]
    shown = ("plain_images_per_s", "plain_failed", "saturation", "contention", "utilisation", "noise", "peak_gpu_gib")
    figures = {name: value for name, value in asdict(found).items() if name in shown and value not in (None, "")}
    return [
        "",
        f"### Training `{found.backbone}`: does the step wait for data?",
        "",
        f"Batches of {found.batch_size}, placement {found.placement}, cache {found.cache}; {how}.",
        "",
        *_table([f"{name}, images/s" for name in found.images_per_s], [row]),
        "",
        f"> {found.verdict}",
        "",
        *_figures({**figures, "loader, us per image": found.stage_us, "step per image": found.roofline}),
    ]


def _loaders(record: Record, picture: str) -> list[str]:
    controls = " and ".join(f"{control:.1%} ({TITLES[name]})" for name, control in record.noise.items())
    lines = [
        "",
        "### Loaders side by side",
        "",
        f"Batches of {record.config['loader_batch_size']}, uint8 NHWC on the training device, warm page cache, the "
        "same JPEGs; each on all cores, in a process of its own, which is stopped while another one runs. Our default, "
        f"measured twice a round, differs from itself by {controls}: smaller differences are ties.",
    ]
    for workload, title in TITLES.items():
        some = by_rate(record.loaders, workload)
        if some:
            lines += ["", f"**{title.capitalize()}**", "", *_loader_table(some)]
    lines += ["", "What each is, and what its batches hold (the record has the versions of all packages):", ""]
    for contract in dict.fromkeys(loader.contract for loader in record.loaders if loader.contract):
        names = dict.fromkeys(loader.name for loader in record.loaders if loader.contract == contract)
        lines.append(f"- **{'; '.join(names)}**: {contract}")
    return [*lines, *(["", f"![Loaders side by side]({picture})"] if picture else [])]


def by_rate(loaders: Iterable[LoaderFigures], workload: str) -> list[LoaderFigures]:
    """Those of a workload, the fastest first."""
    return sorted((loader for loader in loaders if loader.workload == workload), key=lambda loader: -_rate(loader))


def _rate(loader: LoaderFigures) -> float:
    return loader.images_per_s.median if loader.images_per_s else 0.0


def _loader_table(some: list[LoaderFigures]) -> list[str]:
    heads = ["loader", "images/s", "of bare decoding", "of ours", "first batch", "epoch's end", "CPU per image"]
    rows = []
    for loader in some:
        row = [f"**{loader.name}**" if loader.name == OURS else loader.name + " (decodes nothing)" * loader.pixels]
        if loader.images_per_s is None or loader.of_limit is None:
            rows.append([*row, f"not measured: {loader.failed}"])
            continue
        beside = "" if loader.of_ours is None or loader.name == OURS else loader.of_ours.words(2)
        row += [loader.images_per_s.words(), loader.of_limit.words(2), beside + (", tie" if loader.tie else "")]
        figures = (
            (loader.epoch_wait_ms, "ms"),
            (loader.cpu_us, "us"),
            (loader.memory_mib, "MiB"),
            (loader.disk_mib, "MiB"),
        )
        row += [f"{loader.first_batch_s:.2f} s"]
        rows.append([*row, *("" if value is None else f"{value:,.0f} {unit}" for value, unit in figures)])
    return _table([*heads, "memory", "disk"], rows)


def _scaling(sweeps: list[Sweep]) -> list[str]:
    rows = []
    for sweep in sweeps:
        intercept, slope = sweep.line()
        points = "; ".join(f"{point.x:,g}: {point.y.words(int(point.y.median < 1000))}" for point in sweep.points)
        memory = "; ".join(f"{point.x:,g}: {point.memory_mib:,.0f} MiB" for point in sweep.points)
        varied, measured = _SWEEPS[sweep.name]
        rows.append([varied, f"{measured}: {points}", f"{intercept:,.4g} {slope:+,.3g} x", memory])
    last = sweeps[-1].points[-1]
    return [
        "",
        "### How it grows",
        "",
        "Our default, full augmentation, one thing (x) varied; the line is fitted to the medians by relative errors, "
        "for threads up to the cores. Sizes are of synthetic images; large sets repeat the samples of the small one, "
        "so that only the index grows.",
        "",
        *_table(["varied", "measured", "line", "memory"], rows),
        "",
        f"A set of {last.x:,.0f} samples gives its first batch {last.open_s:.1f} s after opening.",
    ]


def _headlines(records: dict[str, Record], others: dict[str, Other]) -> list[str]:
    """The README's table: what a newcomer asks first."""
    rows = []
    for record in records.values():
        for workload, title in TITLES.items():
            some = by_rate((loader for loader in record.loaders if loader.of_ours), workload)
            ours = next((loader for loader in some if loader.name == OURS), None)
            peers = [loader for loader in some if loader.kind == "peer"]
            if ours and ours.of_limit and peers:
                names = {loader.name: loader for loader in (peers[0], next(peer for peer in peers if not peer.pixels))}
                fastest = " and ".join(_reaches(loader) for loader in names.values())
                words = f"{_rate(ours):,.0f} images/s, {ours.of_limit.median:.0%} of bare JPEG decoding; of "
                rows.append([f"loader alone, {title}", f"{words}{len(peers)} peers, {fastest}"])
    fed = [record.training for record in records.values() if record.training]
    kept = [f"{each.saturation.median:.0%} (`{each.backbone}`{', a tie' * (each.bound == 'tie')})" for each in fed]
    rows.append(["training speed kept with data loading", ", ".join(kept)])
    trainer, demo = others["trainer"], others["demo"]
    ours_s, plain_s = (trainer["seconds"][name]["median"] for name in ("ours", "plain"))
    gap = _words(trainer["auc"]["merged"]["ours_minus_plain"])
    rows.append(
        ["our trainer beside a plain PyTorch one", f"{ours_s:.0f} s instead of {plain_s:.0f} s, AUC difference {gap}"]
    )
    ensemble, best = demo["auc"]["ensemble"]["value"], demo["best_possible"]["value"]
    rows.append(["AUC of `make demo`, synthetic images", f"{ensemble:.3f}, where {best:.3f} is the best possible"])
    return _table(["what", "measured"], rows)


def _reaches(loader: LoaderFigures) -> str:
    assert loader.of_ours is not None
    return f"{loader.name}{' (decodes nothing)' if loader.pixels else ''} reaches {loader.of_ours.median:.0%} of ours"


def draw_loaders(record: Record, path: Path) -> None:
    """Both workloads side by side, one line for each loader, in the order of the last workload."""
    workloads = [name for name in TITLES if any(loader.workload == name for loader in record.loaders)]
    shown = [loader for loader in record.loaders if loader.images_per_s and loader.name != AGAIN]
    names = [loader.name for loader in by_rate(shown, workloads[-1])][::-1]
    colours = {"ours": COLOURS[0], "peer": "#b8c4ce", "limit": COLOURS[3]}
    figure = Figure(figsize=(10, 0.3 * len(names) + 1), layout="constrained")
    axes = figure.subplots(1, len(workloads), squeeze=False, sharey=True)[0]
    for axis, workload in zip(axes, workloads, strict=True):
        for loader in by_rate(shown, workload):
            if loader.name in names and (rate := loader.images_per_s):
                place = names.index(loader.name)
                axis.barh(place, rate.median, color=colours[loader.kind])
                axis.plot([rate.low, rate.high], [place, place], color=INK, linewidth=1)
                axis.text(rate.high, place, f" {rate.median:,.0f}", va="center", fontsize=9, color=INK)
        axis.set_yticks(range(len(names)), names, fontsize=9)
        axis.set_title(f"{TITLES[workload]}, images/s", fontsize=11, loc="left", color=INK)
        axis.margins(x=0.15)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    filled = ([*row, *[""] * (len(heads) - len(row))] for row in rows)
    return [f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *filled)]


def _figures(tree: Other) -> list[str]:
    """A table of all figures of a tree; in brackets are ranges and intervals."""
    return _table(["figure", "measured"], [[name.replace("_", " "), words] for name, words in _leaves(tree)])


def _leaves(tree: Other, path: str = "") -> Iterator[tuple[str, str]]:
    for name, value in tree.items():
        if isinstance(value, dict) and "low" not in value:
            yield from _leaves(value, f"{path}{name}, ")
        else:
            yield f"{path}{name}", _words(value)


def _words(value: Any) -> str:
    """A number in about three digits; a spread or an interval; a list as its mean with the range."""
    if isinstance(value, list):
        value = {"value": mean(value), "low": min(value), "high": max(value)}
    if isinstance(value, dict):
        return f"{_words(value.get('median', value.get('value')))} ({_words(value['low'])} to {_words(value['high'])})"
    if isinstance(value, str):
        return value
    digits = 0 if isinstance(value, int) or abs(value) >= 100 else 3 if abs(value) < 10 else 1
    return f"{value:,.{digits}f}"


if __name__ == "__main__":
    main()
