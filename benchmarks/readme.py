"""The README's table: the headline of every record. `python -m benchmarks.results` writes it."""

from statistics import mean, median
from typing import Any

from benchmarks.contenders import OURS
from benchmarks.record import TITLES, LoaderFigures, Record

BEGIN, END = "<!-- measured: python -m benchmarks.results -->", "<!-- end of measured -->"


def with_table(text: str, records: dict[str, Record], others: dict[str, dict[str, Any]]) -> str:
    """`text` with everything between the two markers made anew."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    rows = [row for record in records.values() for row in [*_loaders(record), *_training(record)]]
    rows += [_trainer(others["trainer"]), _sample(others["sample"]), _demo(others["demo"])]
    lines = ["| what | measured | where |", "| --- | --- | --- |", *(f"| {' | '.join(row)} |" for row in rows)]
    return f"{before}{BEGIN}\n" + "\n".join(lines) + f"\n{END}{after}"


def peers(record: Record, workload: str) -> list[LoaderFigures]:
    """Loaders that are not ours, the fastest first."""
    found = [one for one in record.loaders if one.workload == workload and one.kind == "peer"]
    return sorted((one for one in found if one.of_ours), key=lambda one: -one.of_ours.median if one.of_ours else 0.0)


def _loaders(record: Record) -> list[tuple[str, str, str]]:
    rows = []
    for workload, words in TITLES.items():
        ours = [one for one in record.loaders if (one.name, one.workload) == (OURS, workload)]
        beside = peers(record, workload)
        best = beside[0] if beside else None
        decoding = [one for one in beside if not one.pixels]
        if ours and ours[0].images_per_s and ours[0].of_limit and best and best.of_ours:
            rows.append(
                (
                    f"loader alone, {words}, {record.size} px",
                    f"{ours[0].images_per_s.median:,.0f} images/s, {ours[0].of_limit.median:.2f} of bare libjpeg-turbo "
                    f"decoding; of {len(beside)} peers the fastest, {best.name}"
                    f"{', which reads stored pixels and decodes nothing' if best.pixels else ''}, reaches "
                    f"{_beside(best)} of it"
                    + (
                        f"; of those that decode, {decoding[0].name} {_beside(decoding[0])}"
                        if best.pixels and decoding
                        else ""
                    ),
                    record.device,
                )
            )
    return rows


def _beside(one: LoaderFigures) -> str:
    assert one.of_ours is not None
    return one.of_ours.words(2) + (", a tie," if one.tie else "")


def _training(record: Record) -> list[tuple[str, str, str]]:
    one = record.training
    if one is None:
        return []
    what = f"`{one.backbone}` in training, {one.size} px, batch {one.batch_size}"
    bound = {
        "step": "the step bounds it",
        "loader": "the loader bounds it",
        "sharing": "both share the machine",
        "tie": "the step bounds it, as far as these rounds tell",
    }
    rate = one.images_per_s["real"]
    words = (
        f"{rate.words(int(rate.median < 100))} images/s, saturation {one.saturation.words(2)}: {bound[one.bound]} "
        f"(ties are differences under {one.noise:.0%})"
    )
    return [(what, words, record.device)]


def _trainer(record: dict[str, Any]) -> tuple[str, str, str]:
    gap = record["auc"]["merged"]["ours_minus_plain"]
    ours = mean(record["auc"]["merged"]["ours"])
    timing = record["timings"][-1]
    seconds = {name: median(pair[name] for pair in timing["seconds"]) for name in ("ours", "plain")}
    return (
        "our trainer beside a plain one of the same recipe, real sample",
        f"pooled AUC {ours:.3f}, {gap['value']:+.3f} ({gap['low']:+.3f} to {gap['high']:+.3f}); at {timing['size']} px "
        f"{seconds['ours']:.0f} s instead of {seconds['plain']:.0f} s",
        record["device"],
    )


def _sample(record: dict[str, Any]) -> tuple[str, str, str]:
    folds = "; ".join(
        f"fold {fold}: merged {one['auc_last_epoch']['merged']:.3f}, 2020 only {one['auc_last_epoch']['2020']:.3f}"
        for fold, one in record["folds"].items()
    )
    return f"`tiny` on {record['train_rows']:,} real images, AUC, no clinical figure", folds, record["device"]


def _demo(record: dict[str, Any]) -> tuple[str, str, str]:
    ensemble, best = record["auc"]["ensemble"], record["best_possible"]["value"]
    words = (
        f"ensemble AUC {ensemble['value']:.3f} ({ensemble['low']:.3f} to {ensemble['high']:.3f}) of at best {best:.3f}"
    )
    return "`make demo`, synthetic images", words, record["device"]
