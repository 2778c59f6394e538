"""RESULTS.md, its plots and the README's table, made from the records in benchmarks/results.

    python -m benchmarks.results

No number there is typed by hand; a test holds both files to the records.
"""

import json
from pathlib import Path
from statistics import mean, median
from typing import Any

from benchmarks import plots, readme
from benchmarks.environment import RESULTS
from benchmarks.record import Record, read
from benchmarks.tables import throughput

ROOT = Path(__file__).resolve().parents[1]
_INTRODUCTION = """# What was measured

Made by `python -m benchmarks.results` from the records in `benchmarks/results`; no number is typed by hand. Compare
figures within a table only: what stands in one was measured in turns, in one run. Images/s are medians of the rounds,
with the lowest and the highest in brackets."""


def main() -> None:
    """Write RESULTS.md, the plots it shows, and the table in README.md."""
    records = throughput_records()
    for name, record in records.items():
        plots.draw(record, RESULTS / name)
    (ROOT / "RESULTS.md").write_text(page(records))
    path = ROOT / "README.md"
    path.write_text(readme.with_table(path.read_text(), records, other_records()))


def throughput_records() -> dict[str, Record]:
    """Those of benchmarks/throughput.py, by name, in the order of their names."""
    return {path.stem: read(path) for path in sorted(RESULTS.glob("throughput*.json"))}


def other_records() -> dict[str, dict[str, Any]]:
    """Those of the other benchmarks, by name."""
    return {name: json.loads((RESULTS / f"{name}.json").read_text()) for name in _BLOCKS}


def page(records: dict[str, Record]) -> str:
    """RESULTS.md."""
    blocks = [_INTRODUCTION]
    for name, made in records.items():
        blocks.append("\n".join(throughput(made, f"benchmarks/results/{name}")))
    for name, record in other_records().items():
        title, lines = _BLOCKS[name]
        blocks.append("\n".join([f"## {title}", "", *lines(record)]))
    return "\n\n".join(blocks) + "\n"


def _demo(record: dict[str, Any]) -> list[str]:
    lines = [
        f"**`make demo`**: {record['test_images']:,} synthetic test images ({record['test_melanomas']} melanoma) whose "
        f"truth the training never sees; {record['minutes']:.1f} minutes after installation. Members named image_ and "
        f"meta_ see only that input. {_where(record)}",
        "",
        "| member | AUC | 95 % interval (DeLong) |",
        "| --- | --- | --- |",
    ]
    scores = {**record["auc"], "best possible (the true logit)": record["best_possible"]}
    lines += [
        f"| {name} | {auc['value']:.3f} | {auc['low']:.3f} to {auc['high']:.3f} |" for name, auc in scores.items()
    ]
    gaps = " and ".join(
        f"{gap['value']:+.3f} ({gap['low']:+.3f} to {gap['high']:+.3f}) over its {kind}-only form"
        for kind, gap in record["tiny_fold0_minus"].items()
    )
    return [
        *lines,
        "",
        f"The ensemble covers {record['covered']:.0%} of the way from 0.5 to the best possible AUC; `tiny_fold0` is "
        f"{gaps} (paired 95 % intervals).",
    ]


def _sample(record: dict[str, Any]) -> list[str]:
    lines = [
        f"**Real ISIC images, a small biased part** ({record['train_rows']:,} training images, "
        f"{record['train_melanomas']} melanoma; {record['test_rows']} test images), `tiny` from random weights, "
        f"{record['epochs']} epochs at 256 px, AUC of the held-out fold after the last epoch. It compares systems with "
        f"each other and says nothing of clinical use. {_where(record)}",
        "",
        "| fold | images (melanoma) | merged | 2020 only | 2019 only |",
        "| --- | --- | --- | --- | --- |",
    ]
    for fold, one in record["folds"].items():
        auc = one["auc_last_epoch"]
        lines.append(
            f"| {fold} | {one['samples']:,} ({one['melanomas']}) | {auc['merged']:.3f} | {auc['2020']:.3f} "
            f"| {auc['2019']:.3f} |"
        )
    return lines


def _trainer(record: dict[str, Any]) -> list[str]:
    config = record["config"]
    lines = [
        f"**Our trainer beside a plain one** (`benchmarks/peers/plain_torch.py`: DataLoader, Pillow, albumentations, "
        f"float32, as a notebook does it), the same recipe, folds, JPEGs and epochs: `tiny` from random weights, "
        f"{config['epochs']} epochs at {record['size']} px, 5 folds, {config['seeds']} seeds, pooled out-of-fold AUC "
        f"after the last epoch of {record['samples']:,} real images ({record['melanomas']} melanoma). {_where(record)}",
        "",
        "| images | ours, mean of seeds (range) | plain | ours minus plain (95 % interval over groups and seeds) |",
        "| --- | --- | --- | --- |",
    ]
    for name, one in record["auc"].items():
        gap = one["ours_minus_plain"]
        lines.append(
            f"| {name} | {mean(one['ours']):.3f} ({min(one['ours']):.3f} to {max(one['ours']):.3f}) "
            f"| {mean(one['plain']):.3f} ({min(one['plain']):.3f} to {max(one['plain']):.3f}) "
            f"| {gap['value']:+.3f} ({gap['low']:+.3f} to {gap['high']:+.3f}) |"
        )
    return [
        *lines,
        "",
        f"The verdict is on the merge; single years are for reading, their standard error is about 0.02. Wall time of "
        f"whole runs of one fold, interleaved: {'; '.join(_timing(one) for one in record['timings'])}.",
    ]


def _timing(one: dict[str, Any]) -> str:
    ours, plain = (median(pair[name] for pair in one["seconds"]) for name in ("ours", "plain"))
    ratio, pairs = one["ratio"], len(one["seconds"])
    return (
        f"{one['size']} px, {one['epochs']} epoch(s): ours {ours:.0f} s, plain {plain:.0f} s, ratio "
        f"{ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f}, {pairs} pairs)"
    )


def _prep(record: dict[str, Any]) -> list[str]:
    config, small, large, builds = (record[name] for name in ("config", "small", "large", "memory"))
    encoding, workers, psnr = config["encoding"], config["workers"], sorted(large["psnr_db"].values())
    grown = builds[-1]["planner_mib"] - builds[0]["planner_mib"], builds[-1]["images"] - builds[0]["images"]
    memory = "; ".join(
        f"{one['images']:,} images: {one['planner_mib']:.0f} MiB to plan, {one['workers_mib']:.0f} MiB in the "
        f"{workers} workers, {one['seconds']:.0f} s"
        for one in builds
    )
    return [
        f"**Prep**, to {encoding['size']} px, JPEG quality {encoding['quality']} {encoding['subsampling']}, "
        f"{config['rounds']} interleaved rounds. {_where(record)}",
        "",
        "| originals | reference | reference, images/s | prep, images/s | ratio |",
        "| --- | --- | --- | --- | --- |",
        f"| {small['different_images']} of 512 x 512 px, {small['mean_bytes'] / 1000:.0f} KB | a bare loop of read, "
        f"decode, encode; {workers} processes each {_rates(small, 'bare')}",
        f"| {large['images']} of 6000 x 4000 px | Pillow's decode, Lanczos; one process each {_rates(large, 'pillow')}",
        "",
        f"Real originals. What is stored of the large ones is {psnr[0]:.1f} to {psnr[-1]:.1f} dB (PSNR) from Pillow's "
        f"pixels. Peak memory of whole builds of synthetic images: {memory}. What grows is the table of rows, "
        f"{grown[0] * 1024 / grown[1]:.1f} KiB an image.",
    ]


def _rates(part: dict[str, Any], reference: str) -> str:
    """The cells of a row: rates of the reference and of prep, and their ratio."""
    figures = [(part["images_per_s"][name], 1) for name in (reference, "prep")] + [(part["ratio"], 2)]
    cells = [
        f"{one['median']:,.{digits}f} ({one['low']:,.{digits}f} to {one['high']:,.{digits}f})"
        for one, digits in figures
    ]
    return "| " + " | ".join(cells) + " |"


def _where(record: dict[str, Any]) -> str:
    return f"{record['device']}, torch {record['versions']['torch']}, {record['date']}."


_BLOCKS = {
    "trainer": ("Our trainer beside a plain one", _trainer),
    "sample": ("Real images, end to end", _sample),
    "demo": ("The demo", _demo),
    "prep": ("Prep", _prep),
}


if __name__ == "__main__":
    main()
