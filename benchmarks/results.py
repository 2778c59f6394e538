"""RESULTS.md, its picture and the README's table, made from the records in benchmarks/results.

    python -m benchmarks.results

No number there is typed by hand; a test holds both files to the records.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from matplotlib.figure import Figure

from benchmarks.contenders import AGAIN, OURS
from benchmarks.record import RESULTS, ROOT, LoaderFigures, Record, Sweep, TrainingFigures, read
from benchmarks.rounds import Spread
from configs.colours import COLOURS, INK

BEGIN, END = "<!-- measured: python -m benchmarks.results -->", "<!-- end of measured -->"
TITLES = {"flips": "decode and flip", "full": "full augmentation"}
_INTRODUCTION = """# What was measured

Made by `python -m benchmarks.results` from the records in `benchmarks/results`; no number is typed by hand. Compare
figures within a table only: what is in one was measured in turns, in one run. Rates are images/s, medians of the
rounds, with the lowest and the highest in brackets."""
_LIMITS = {
    "matrix_tflops": ("matrix product in the precision of the step, TFLOP/s", 3),
    "memory_gb_per_s": ("main memory, GB/s copied (read and written)", 1),
    "gpu_memory_gb_per_s": ("GPU memory, GB/s copied (read and written)", 0),
    "to_gpu_gb_per_s": ("pinned memory to the GPU, GB/s", 1),
    "nvjpeg_images_per_s": ("the GPU's JPEG decoder (DALI, mixed), images/s", 0),
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
    return {name: json.loads((RESULTS / f"{name}.json").read_text()) for name in _SECTIONS}


def page(records: dict[str, Record], others: dict[str, Other]) -> str:
    """RESULTS.md."""
    parts = [throughput(record, f"benchmarks/results/{name}_loaders.png") for name, record in records.items()]
    for name, record in others.items():
        where = f"{record['device']}, torch {record['versions']['torch']}, {record['date']}."
        parts.append([*_SECTIONS[name](record), "", where])
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
    lines += ["", *_table(["limits and bookkeeping", "measured"], _limits(record))]
    lines += _loaders(record, picture) if record.loaders else []
    return lines + (_scaling(record.scaling) if record.scaling else [])


def _training(found: TrainingFigures) -> list[str]:
    how = ", ".join(f"{name} {value}" for name, value in found.speed.items() if name != "placement")
    gpu = f" Peak GPU memory {found.peak_gpu_gib:.1f} GiB." if found.peak_gpu_gib is not None else ""
    row = {f"{name}, images/s": rate.words(int(rate.median < 100)) for name, rate in found.images_per_s.items()}
    if found.plain_images_per_s or found.plain_failed:
        row["plain trainer"] = f"{found.plain_images_per_s:,.0f}" if found.plain_images_per_s else found.plain_failed
    stages = ", ".join(f"{stage} {spent:.0f}" for stage, spent in found.stage_us.items())
    cost = found.roofline
    return [
        "",
        f"### Training `{found.backbone}`: does the step wait for data?",
        "",
        f"Batches of {found.batch_size}, placement {found.placement}, cache {found.cache}; {how}.{gpu} A step costs "
        f"{cost['gflop']:.2f} GFLOP per image ({cost['of_matrix_product']:.2f} of the matrix product below) and moves "
        f"{cost['mb']:,.0f} MB ({cost['of_copy_rate']:.2f} of the copy rate); {cost['parameters_m']:.2f} M parameters.",
        "",
        *_table(list(row), [list(row.values())]),
        "",
        f"Saturation (real / replayed) {found.saturation.words(3)}; contention (replayed / resident) "
        f"{found.contention.words(3)}; utilisation {found.utilisation.words(3)}; A/A control (resident, twice a round) "
        f"{found.noise:.3f}. Microseconds per image in the loader: {stages}.",
        "",
        f"> {found.verdict}",
    ]


def _limits(record: Record) -> list[list[str]]:
    rows = [[_LIMITS[name][0], limit.words(_LIMITS[name][1])] for name, limit in record.limits.items()]
    samples = f"order + augmentation parameters, microseconds per step of {record.config['loader_batch_size']} images"
    return [*rows, [f"{samples} (set of 1,000,000)", " + ".join(f"{cost:.0f}" for cost in record.costs.values())]]


def _loaders(record: Record, picture: str) -> list[str]:
    controls = " and ".join(f"{control:.1%} ({TITLES[name]})" for name, control in record.noise.items())
    lines = [
        "",
        "### Loaders side by side",
        "",
        f"Batches of {record.config['loader_batch_size']}, uint8 NHWC on the training device, warm page cache, the "
        "same JPEGs; each in a process of its own, which is stopped while another one runs. Threads or workers: "
        f"{max(loader.threads for loader in record.loaders)} each. Our default, measured twice a round, differs from "
        f"itself by {controls}: smaller differences are ties.",
    ]
    for workload, title in TITLES.items():
        some = by_rate(record.loaders, workload)
        if some:
            lines += ["", f"**{title.capitalize()}**", "", *_loader_table(some), "", _ranking(some)]
    contracts = {loader.contract: loader for loader in record.loaders if loader.contract}
    lines += ["", "What a batch holds besides its images:", ""]
    for contract, loader in contracts.items():
        names = dict.fromkeys(each.name for each in record.loaders if each.contract == contract)
        versions = ", ".join(f"{name} {version}" for name, version in loader.versions.items())
        lines.append(f"- {'; '.join(names)}: {contract} ({versions}).")
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
        row = [f"**{loader.name}**" if loader.name == OURS else loader.name]
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


def _ranking(some: list[LoaderFigures]) -> str:
    """Who is faster than ours and why, or that nobody is."""
    peers = [loader for loader in some if loader.kind == "peer" and loader.of_ours]
    faster = [_beside(loader) for loader in peers if loader.of_ours and loader.of_ours.median > 1 and not loader.tie]
    kept = [_beside(loader) for loader in some if loader.kind == "ours" and loader.pixels and loader.of_ours]
    ties = [loader.name for loader in peers if loader.tie]
    words = f"Faster than ours: {'; '.join(faster)}." if faster else "No peer is faster."
    words += f" What of ours decodes nothing either: {'; '.join(kept)}." if faster and kept else ""
    words += f" Ties: {'; '.join(ties)}." if ties else ""
    return words if peers else "No peer was measured."


def _beside(loader: LoaderFigures) -> str:
    assert loader.of_ours is not None
    why = f" (it reads stored pixels and decodes nothing, {loader.disk_mib or 0:,.0f} MiB on disk)"
    return f"{loader.name}, {loader.of_ours.words(2)}{why if loader.pixels and loader.kind == 'peer' else ''}"


def _scaling(sweeps: list[Sweep]) -> list[str]:
    rows = []
    for sweep in sweeps:
        intercept, slope = sweep.line()
        points = "; ".join(f"{point.x:,g}: {point.y.words(int(point.y.median < 1000))}" for point in sweep.points)
        memory = "; ".join(f"{point.x:,g}: {point.memory_mib:,.0f} MiB" for point in sweep.points)
        rows.append([sweep.x_label, f"{sweep.y_label}: {points}", f"{intercept:,.4g} {slope:+,.3g} x", memory])
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


def _trainer(record: Other) -> list[str]:
    rows, seconds = [], {name: Spread(**found).words() for name, found in record["seconds"].items()}
    for name, auc in record["auc"].items():
        both = (f"{mean(auc[key]):.3f} ({min(auc[key]):.3f} to {max(auc[key]):.3f})" for key in ("ours", "plain"))
        rows.append([name, *both, _estimate(auc["ours_minus_plain"], "+.3f")])
    return [
        "## Our trainer beside a plain one",
        "",
        "The plain one is `benchmarks/peers/plain_torch.py`: DataLoader, Pillow, albumentations, float32, as a "
        "notebook does it. The same recipe, folds, JPEGs and epochs: `tiny` from random weights, "
        f"{record['config']['epochs']} epochs, 5 folds, {record['config']['seeds']} seeds, "
        f"pooled out-of-fold AUC after the last epoch of {record['samples']:,} real images ({record['melanomas']} "
        "melanoma).",
        "",
        *_table(["images", "ours, mean of seeds (range)", "plain", "ours - plain (95 %, groups and seeds)"], rows),
        "",
        "The verdict is on the merge; the standard error of a single year is about 0.02. Wall time of whole runs of "
        f"one fold: ours {seconds['ours']} s, plain {seconds['plain']} s, ratio {Spread(**record['ratio']).words(2)}.",
    ]


def _sample(record: Other) -> list[str]:
    rows = [
        [
            number,
            f"{fold['samples']:,} ({fold['melanomas']})",
            *(f"{auc:.3f}" for auc in fold["auc_last_epoch"].values()),
        ]
        for number, fold in record["folds"].items()
    ]
    return [
        "## Real images, end to end",
        "",
        f"A small biased part of the ISIC images ({record['train_rows']:,} training images, "
        f"{record['train_melanomas']} melanoma; {record['test_rows']} test images), `tiny` from random weights, "
        f"{record['epochs']} epochs at 256 px, AUC of the held-out fold after the last epoch. It compares systems with "
        "each other and says nothing of clinical use.",
        "",
        *_table(["fold", "images (melanoma)", "merged", "2020 only", "2019 only"], rows),
    ]


def _demo(record: Other) -> list[str]:
    scores = {**record["auc"], "best possible (the true logit)": record["best_possible"]}
    gaps = [f"{_estimate(gap, '+.3f')} over its {kind}-only form" for kind, gap in record["tiny_fold0_minus"].items()]
    return [
        "## The demo",
        "",
        f"`make demo`: {record['test_images']:,} synthetic test images ({record['test_melanomas']} melanoma) whose "
        f"truth the training never sees; {record['minutes']:.1f} minutes after installation. Members named image_ and "
        "meta_ see only that input.",
        "",
        *_table(["member", "AUC (95 %, DeLong)"], [[name, _estimate(auc, ".3f")] for name, auc in scores.items()]),
        "",
        f"The ensemble covers {record['covered']:.0%} of the way from 0.5 to the best possible AUC; `tiny_fold0` is "
        f"{' and '.join(gaps)} (paired 95 % intervals).",
    ]


def _prep(record: Other) -> list[str]:
    config, rates = record["config"], record["images_per_s"]
    cells = [Spread(**rates["bare"]).words(), Spread(**rates["prep"]).words(), Spread(**record["ratio"]).words(2)]
    return [
        "## Prep",
        "",
        f"{record['different_images']} real originals of 512 x 512 px, {record['mean_bytes'] / 1000:.0f} KB, again and "
        f"again to 256 px, JPEG quality 96; {config['workers']} processes, {config['rounds']} rounds.",
        "",
        *_table(["a bare loop of read, decode, encode, images/s", "prep, images/s", "ratio"], [cells]),
    ]


_SECTIONS = {"trainer": _trainer, "sample": _sample, "demo": _demo, "prep": _prep}


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
    gap = _estimate(trainer["auc"]["merged"]["ours_minus_plain"], "+.3f")
    rows.append(["our trainer beside a plain PyTorch one", f"{ours_s:.0f} s instead of {plain_s:.0f} s, AUC {gap}"])
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


def _estimate(estimate: dict[str, float], form: str) -> str:
    return f"{estimate['value']:{form}} ({estimate['low']:{form}} to {estimate['high']:{form}})"


if __name__ == "__main__":
    main()
