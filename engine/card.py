"""The model card of a bundle, in Markdown: what it is, how well it does, and what it is not for.

Its parts follow Mitchell et al., Model Cards for Model Reporting, FAT* 2019.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from engine.predictor import Predictor

_LIMITS = """## Limits

- A research tool, not a medical device. It has not been tested on patients, and nothing here is fit for use on them.
- It knows dermoscopic pictures like those of ISIC 2019 and 2020. On other pictures its answers mean nothing.
- Melanoma against everything else: other cancers (BCC, SCC) count as "not melanoma".
- The merged AUC is inflated, because melanoma is ten times as frequent in the whole of 2019 as in 2020: read it
  beside the others.
- Neither year names skin types: nothing is known about how it does on dark skin.
- Probabilities hold at the prevalence of the training rows; `--prevalence` shifts them to another one, which is right
  only if nothing else differs."""


def model_card(predictor: Predictor) -> str:
    """The card of a judged ensemble."""
    record, judgement = predictor.record, predictor.record["judgement"]
    members = [
        [
            entry["name"],
            entry["config"]["backbone"],
            "all rows" if entry["fold"] is None else f"without {entry['fold']}",
        ]
        for entry in record["members"]
    ]
    aucs = [
        [
            row["name"],
            f"{row['rows']:,}",
            f"{row['positives']:,}",
            *(_words(row["over_groups"][part]) for part in _PARTS),
        ]
        for row in judgement["table"]
    ]
    points = [
        [f"{point['wanted']:.0%}", f"{point['threshold']:.4g}", _words(point["held_out_sensitivity"]),
         _words(point["held_out_specificity"])]
        for point in judgement["operating_points"]
    ]  # fmt: skip
    folds = sorted({row["fold"] for row in record["counts"] if row["fold"] >= 0})
    parts = [
        "# Melanoma ensemble",
        f"{len(members)} members, combined by {judgement['combine']}, {record['views']} test-time views, "
        f"{record['encoding']['size']} px. Labels: SHA-256 {record['labels_sha256']}; {len(folds)} folds without known "
        "patients, lesions or duplicates in common.",
        "## Training rows\n\n" + _table(["source", "melanomas", "others"], _counts(record["counts"])),
        "## Members\n\n" + _table(["member", "backbone", "trained"], members),
        "## Out-of-fold AUC\n\nWith 95 % intervals (bootstrap over groups).\n\n"
        + _table(["model", "rows", "melanomas", *_PARTS], aucs),
        "## Calibration\n\n" + _calibration(judgement),
        "## Operating points\n\nThresholds of the combined score; sensitivity and specificity on folds that they were "
        "not fitted on.\n\n" + _table(["wanted", "threshold", "sensitivity", "specificity"], points),
        _LIMITS,
    ]
    if record["unsafe"]:
        parts.insert(2, f"**For comparison only: the shard set was {record['unsafe']}.**")
    return "\n\n".join(parts) + "\n"


_PARTS = ("merged", "2020", "2019")


def _counts(counts: Sequence[dict[str, Any]]) -> list[list[str]]:
    sources = sorted({row["source"] for row in counts if row["split"] == "train"})
    return [
        [str(source or "outside"), *(f"{_count(counts, source, target):,}" for target in (1, 0))] for source in sources
    ]


def _count(counts: Sequence[dict[str, Any]], source: int, target: int) -> int:
    rows = (row for row in counts if (row["split"], row["source"], row["target"]) == ("train", source, target))
    return sum(row["samples"] for row in rows)


def _calibration(judgement: dict[str, Any]) -> str:
    if judgement["not_cross_fitted"]:
        return f"Not judged: {judgement['not_cross_fitted']}."
    after = judgement["after"]["merged"]
    return "Of the calibrated probability, on folds that it was not fitted on.\n\n" + _table(
        ["figure", "value"], [[name.replace("_", " "), _words(value)] for name, value in after.items()]
    )


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *rows))


def _words(value: Any) -> str:
    if isinstance(value, dict) and "low" in value:
        return (
            "too few"
            if value["value"] is None
            else " ".join(
                [
                    _words(value["value"]),
                    *([f"({_words(value['low'])} to {_words(value['high'])})"] * (value["low"] is not None)),
                ]
            )
        )
    if isinstance(value, float):
        return f"{value:.3f}"
    return "not known" if value is None else str(value)
