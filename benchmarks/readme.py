"""The README's table of what was measured, made from the records in benchmarks/results.

    python -m benchmarks.readme

No number there is typed by hand; a test holds README.md to its records.
"""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- measured: python -m benchmarks.readme -->", "<!-- end of measured -->"


def main() -> None:
    """Write the table into README.md."""
    readme = ROOT / "README.md"
    readme.write_text(with_table(readme.read_text()))


def with_table(text: str) -> str:
    """`text` with everything between the two markers made anew."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


def table() -> str:
    """The figures of all records, as Markdown."""
    demo, sample, loader = (json.loads((RESULTS / f"{name}.json").read_text()) for name in ("demo", "sample", "loader"))
    return "\n".join([*_demo(demo), "", *_sample(sample), "", *_loader(loader)])


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


def _loader(record: dict[str, Any]) -> list[str]:
    config = record["config"]
    lines = [
        f"**Loader alone**, {config['size']} px JPEGs of {record['mean_jpeg_bytes'] / 1000:.0f} KB on average, batch "
        f"{config['batch_size']}, {config['threads']} threads, {config['rounds']} interleaved rounds; ratio to bare "
        f"libjpeg-turbo decoding in the same round. {_where(record)}",
        "",
        "| loader | images/s, median (min to max) | ratio |",
        "| --- | --- | --- |",
    ]
    for name, one in record["images_per_s"].items():
        lines.append(
            f"| {name} | {one['median']:,.0f} ({one['low']:,.0f} to {one['high']:,.0f}) | {one['ratio']:.2f} |"
        )
    return lines


def _where(record: dict[str, Any]) -> str:
    return f"{record['device']}, torch {record['versions']['torch']}, {record['date']}."


if __name__ == "__main__":
    main()
