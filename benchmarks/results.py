"""RESULTS.md, its picture and the README's table, made from the records in benchmarks/results.

    python -m benchmarks.results

No number there is typed by hand; a test holds both files to the records.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from matplotlib.figure import Figure

from benchmarks.comparison import AGAIN, OURS
from benchmarks.record import RESULTS, ROOT, Record, read
from configs.colours import COLOURS, INK

BEGIN, END = "<!-- measured: python -m benchmarks.results -->", "<!-- end of measured -->"
TITLES = {"flips": "decode and flip", "full": "full augmentation"}
_INTRODUCTION = """# What was measured

Made by `python -m benchmarks.results` from the records in `benchmarks/results`; no number is typed by hand. Compare
figures within a table only: what is in one was measured in turns, in one run. Rates are images/s, medians of the
rounds, with the lowest and the highest in brackets."""
_COLUMNS = {
    "images/s": "images_per_s",
    "of bare decoding": "of_limit",
    "of ours": "of_ours",
    "first batch, s": "first_batch_s",
    "epoch's end, ms": "epoch_wait_ms",
    "CPU per image, microseconds": "cpu_us",
    "memory, MiB": "memory_mib",
    "disk, MiB": "disk_mib",
}
_SWEEPS = {
    "threads": ("threads", "images/s"),
    "ranks": ("ranks, which share the cores", "images/s in all"),
    "batch": ("images per batch", "ms per batch"),
    "samples": ("samples in the set", "microseconds per image"),
}
_OTHERS = {
    "trainer": "Our trainer beside a plain one",
    "sample": "Real images, end to end",
    "demo": "The demo",
    "prep": "Prep beside a bare loop",
    "opening": "A large index, opened",
    "planning": "Prep on a million rows",
    "inference": "Inference beside its bare forward passes",
    "host": "What training costs the host",
    "recipe": "Our augmentation beside the reference recipe's",
    "border": "Borders of the augmentation, trained",
    "progressive": "Smaller images in the first epochs",
}


def main() -> None:
    """Write RESULTS.md, its pictures, and the table in README.md."""
    records = all_records()
    for name, record in records.items():
        if record.get("loaders"):
            draw_loaders(record, RESULTS / f"{name}_loaders.png")
    (ROOT / "RESULTS.md").write_text(page(records))
    path = ROOT / "README.md"
    path.write_text(with_table(path.read_text(), records))


def all_records() -> dict[str, Record]:
    """By name: those of benchmarks/throughput.py first. What has not been measured yet has none."""
    names = [*sorted(path.stem for path in RESULTS.glob("throughput*.json")), *_OTHERS]
    names = [name for name in names if (RESULTS / f"{name}.json").is_file()]
    return {name: read(RESULTS / f"{name}.json") for name in names}


def page(records: dict[str, Record]) -> str:
    """RESULTS.md."""
    parts = [_INTRODUCTION]
    for name, record in records.items():
        picture = f"benchmarks/results/{name}_loaders.png"
        parts.append("\n".join(_other(name, record) if name in _OTHERS else throughput(record, picture)))
    return "\n\n".join(parts) + "\n"


def with_table(text: str, records: dict[str, Record]) -> str:
    """README.md's `text`, with everything between the two markers made anew."""
    before, _, rest = text.partition(BEGIN)
    return "\n".join([before + BEGIN, *_headlines(records), END + rest.partition(END)[2]])


def _other(name: str, record: Record) -> list[str]:
    where = f"{record['device']}, torch {record['versions']['torch']}, {record['date']}."
    figures = {key: value for key, value in record.items() if key not in ("what", "device", "versions", "date")}
    return [f"## {_OTHERS[name]}", "", f"{record['what']}. {where}", "", *_figures(figures)]


def throughput(record: Record, picture: str = "") -> list[str]:
    """The section of one record, which shows `picture` where it has loaders."""
    named = [f"`{record['training']['backbone']}`"] if record.get("training") else []
    named += ["loaders"] if record.get("loaders") else []
    lines = [
        f"## Throughput of {' and '.join(named) or 'the stream'}: {record['device']}",
        "",
        f"{record['date']}, torch {record['versions']['torch']}, {record['images']:,} training images of "
        f"{record['size']} px, {record['mean_jpeg_bytes'] / 1000:.0f} KB each on average; {record['config']['rounds']} "
        f"rounds, at least {record['config']['seconds']:g} s a turn after its warm-up; the run took "
        f"{record['seconds'] / 60:.0f} minutes.",
    ]
    lines += ["", f"It ended early: {record['failed']}."] if record["failed"] else []
    lines += _training(record["training"]) if record.get("training") else []
    lines += ["", *_figures({"limit": record["limits"]})] if record.get("limits") else []
    lines += _loaders(record, picture) if record.get("loaders") else []
    return lines + (_scaling(record["scaling"]) if record.get("scaling") else [])


def _training(found: Record) -> list[str]:
    said = ("backbone", "bound", "interval", "verdict")  # above, or in the verdict
    figures = {name: value for name, value in found.items() if name not in said and value not in (None, "")}
    return [
        "",
        f"### Training `{found['backbone']}`: does the step wait for data?",
        "",
        f"> {found['verdict']}",
        "",
        "Saturation is real / replayed, contention replayed / resident, noise the A/A control (resident twice a "
        "round), utilisation the share of time in steps; a stage's time is per image, in the loader's threads.",
        "",
        *_figures(figures),
    ]


def _loaders(record: Record, picture: str) -> list[str]:
    controls = " and ".join(f"{control:.1%} ({TITLES[name]})" for name, control in record["noise"].items())
    lines = [
        "",
        "### Loaders side by side",
        "",
        f"Batches of {record['config']['loader_batch_size']}, uint8 NHWC on the training device, warm page cache, the "
        "same JPEGs; each on all cores, in a process of its own, which is stopped while another one runs. Our default, "
        f"measured twice a round, differs from itself by {controls}: smaller differences are ties.",
    ]
    for workload, title in TITLES.items():
        some = by_rate(record["loaders"], workload)
        rows = map(_loader_row, some)
        lines += ["", f"**{title.capitalize()}**", "", *_table(["loader", *_COLUMNS], rows)] if some else []
    lines += ["", "What each is, and what its batches hold (the record has the versions of all packages):", ""]
    measured = [loader for loader in record["loaders"] if not loader["failed"]]
    for contract in dict.fromkeys(loader["contract"] for loader in measured):
        names = dict.fromkeys(loader["name"] for loader in measured if loader["contract"] == contract)
        lines.append(f"- **{'; '.join(names)}**: {contract}")
    return [*lines, *(["", f"![Loaders side by side]({picture})"] if picture else [])]


def by_rate(loaders: Iterable[Record], workload: str) -> list[Record]:
    """Those of a workload, the fastest first, what failed last."""
    some = [loader for loader in loaders if loader["workload"] == workload]
    return sorted(some, key=lambda loader: 0.0 if loader["failed"] else -loader["images_per_s"]["median"])


def _loader_row(loader: Record) -> list[str]:
    name = loader["name"]
    if loader["failed"]:
        return [name, f"not measured: {loader['failed']}"]
    name = f"**{name}**" if name == OURS else name + " (decodes nothing)" * loader["pixels"] + " (tie)" * loader["tie"]
    return [name, *("" if loader[key] is None else _words(loader[key]) for key in _COLUMNS.values())]


def _scaling(sweeps: list[Record]) -> list[str]:
    rows = []
    for sweep in sweeps:
        varied, measured = _SWEEPS[sweep["name"]]
        for point in sweep["points"]:
            row = [f"{point['x']:,.6g} {varied}", f"{_words(point['y'])} {measured}"]
            rows.append([*row, _words(point["memory_mib"]), _words(point["open_s"])])
    return [
        "",
        "### How it grows",
        "",
        "Our default, full augmentation, one thing varied. Large sets repeat the samples of the small one, so that "
        "only the index grows.",
        "",
        *_table(["varied", "measured", "memory, MiB", "first batch after opening, s"], rows),
    ]


def _headlines(records: dict[str, Record]) -> list[str]:
    """The README's table: what a newcomer asks first."""
    rows = []
    for record in records.values():
        for workload, title in TITLES.items():
            some = [loader for loader in by_rate(record.get("loaders", []), workload) if not loader["failed"]]
            peers = [loader for loader in some if loader["kind"] == "peer"]
            if peers:
                ours = next(loader for loader in some if loader["name"] == OURS)
                best = {each["name"]: each for each in (peers[0], next(peer for peer in peers if not peer["pixels"]))}
                reached = [
                    f"{name}{' (decodes nothing)' * each['pixels']} reaches {each['of_ours']['median']:.0%} of ours"
                    for name, each in best.items()
                ]
                words = f"{_words(ours['images_per_s']['median'])} images/s, {ours['of_limit']['median']:.0%} of bare "
                words += f"JPEG decoding; of {len(peers)} peers, {' and '.join(reached)}"
                rows.append([f"loader alone, {title}", words])
    fed = [record["training"] for record in records.values() if record.get("training")]
    kept = (
        f"{each['saturation']['median']:.0%} (`{each['backbone']}`{', a tie' * (each['bound'] == 'tie')})"
        for each in fed
    )
    rows.append(["training speed kept with data loading", ", ".join(kept)])
    trainer, demo, sample = (records[name] for name in ("trainer", "demo", "sample"))
    ours_s, plain_s = (trainer["seconds"][name]["median"] for name in ("ours", "plain"))
    gap = _words(trainer["auc"]["merged"]["ours_minus_plain"])
    words = f"{ours_s:.0f} s instead of {plain_s:.0f} s, AUC difference {gap}"
    rows.append(["our trainer beside a plain PyTorch one", words])
    found = {name: _words(parts["merged"]) for name, parts in sample["auc"].items()}
    words = f"AUC {found.pop('ensemble')}; {', '.join(f'`{name}` {each}' for name, each in found.items())}"
    rows.append(["ensemble on a part of the real images, out of fold", words])
    ensemble, best = demo["auc"]["ensemble"]["value"], demo["best_possible"]["value"]
    rows.append(["AUC of `make demo`, synthetic images", f"{ensemble:.3f}, where {best:.3f} is the best possible"])
    return _table(["what", "measured"], rows)


def draw_loaders(record: Record, path: Path) -> None:
    """Both workloads side by side, one line for each loader, in the order of the last workload."""
    workloads = [name for name in TITLES if any(loader["workload"] == name for loader in record["loaders"])]
    shown = [loader for loader in record["loaders"] if not loader["failed"] and loader["name"] != AGAIN]
    names = [loader["name"] for loader in by_rate(shown, workloads[-1])][::-1]
    colours = {"ours": COLOURS[0], "peer": "#b8c4ce", "limit": COLOURS[3]}
    figure = Figure(figsize=(10, 0.3 * len(names) + 1), layout="constrained")
    axes = figure.subplots(1, len(workloads), squeeze=False, sharey=True)[0]
    for axis, workload in zip(axes, workloads, strict=True):
        for loader in by_rate(shown, workload):
            if loader["name"] in names:
                place, rate = names.index(loader["name"]), loader["images_per_s"]
                axis.barh(place, rate["median"], color=colours[loader["kind"]])
                axis.plot([rate["low"], rate["high"]], [place, place], color=INK, linewidth=1)
                axis.text(rate["high"], place, f" {rate['median']:,.0f}", va="center", fontsize=9, color=INK)
        axis.set_yticks(range(len(names)), names, fontsize=9)
        axis.set_title(f"{TITLES[workload]}, images/s", fontsize=11, loc="left", color=INK)
        axis.margins(x=0.15)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def _table(heads: Sequence[str], rows: Iterable[Iterable[str]]) -> list[str]:
    filled = ([*row, *[""] * len(heads)][: len(heads)] for row in rows)
    return [f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *filled)]


def _figures(tree: Record) -> list[str]:
    """A table of all figures of a tree; in brackets are ranges and intervals."""
    return _table(["figure", "measured"], [[name.replace("_", " "), words] for name, words in _leaves(tree)])


def _leaves(tree: Record, path: str = "") -> Iterator[tuple[str, str]]:
    for name, value in tree.items():
        if isinstance(value, dict) and "low" not in value:
            yield from _leaves(value, f"{path}{name}, ")
        else:
            yield f"{path}{name}", _words(value)


def _words(value: Any) -> str:
    """A number in three digits or all before the point; a spread or an interval; a list as its mean with the range."""
    if isinstance(value, list):
        value = {"value": mean(value), "low": min(value), "high": max(value)}
    if isinstance(value, dict):
        return f"{_words(value.get('median', value.get('value')))} ({_words(value['low'])} to {_words(value['high'])})"
    if isinstance(value, (str, bool)):
        return str(value)
    digits = 0 if isinstance(value, int) else sum(abs(value) < limit for limit in (1, 10, 100))
    return f"{value:,.{digits}f}"


if __name__ == "__main__":
    main()
