"""Participant flow: from the rows of the tables to the images that are judged, what was left out, and why."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from configs.colours import COLOURS, INK, MUTED
from report.case import Case
from report.page import Cell, Picture, Section, Table

_VERIFICATION = (
    "The tables do not say of each image how its outcome was verified. By the publications, every melanoma of 2020 was "
    "confirmed by histopathology, a benign image by histopathology, expert consensus or follow-up (Rotemberg et al., "
    "Scientific Data 2021); HAM10000, a part of 2019, rests on histopathology for about half of its images, else on "
    "follow-up, consensus or confocal microscopy (Tschandl et al., Scientific Data 2018)."
)


def section(case: Case) -> Section:
    """Who is in the report."""
    stages = stages_of(case)
    rows, judged = stages["rows of the tables"], stages["judged out of fold"]
    kept = int(rows["left_out"].isna().sum())
    melanomas = int((judged["target"] == 1).sum())
    return Section(
        title="Who is in it",
        lead=f"Of {len(rows):,} rows of the tables, {kept:,} have an image that was used and {len(judged):,} are "
        f"judged out of fold, with {melanomas:,} melanomas in {judged['group'].nunique():,} groups (patients, lesions, "
        "duplicates). Nothing below speaks of the rows that were left out.",
        parts=[
            Picture(
                name="participant_flow",
                figure=_drawn(stages),
                caption="How the rows of the tables become the images that are judged. Read the boxes at the right "
                "first: what was left out can bias what remains.",
            ),
            verified(stages["training"]),
            _VERIFICATION,
            _table(stages),
            _diagnoses(stages["training"]),
        ],
    )


def stages_of(case: Case) -> dict[str, pd.DataFrame]:
    """The rows of each stage: all, those of each split that are kept, trained on by a member, and judged."""
    rows = case.rows
    kept = rows[rows["left_out"].isna()]
    training = kept[kept["split"] == "train"]
    without = {member.fold for member in case.members}
    # With a single held-out fold, no member has seen it; with two or more, each row is seen by the other's member.
    unseen = training["fold"].isin(without) if len(without) == 1 else training["fold"].isin([])
    return {
        "rows of the tables": rows,
        "training": training,
        "test": kept[kept["split"] == "test"],
        "extra": kept[kept["split"] == "extra"],
        "trained on": training[~unseen],
        "judged out of fold": case.judged,
    }


def plain_reasons(rows: pd.DataFrame) -> pd.Series:
    """Why each row was left out, missing where it was not; of copies and bad files the kind alone."""
    kinds = {r"^duplicate of.*": "duplicate of a kept image", r"^cannot be used.*": "file cannot be used"}
    return rows["left_out"].replace(kinds, regex=True)


def reasons_of(rows: pd.DataFrame) -> dict[str, int]:
    """How many rows were left out for each reason, the most frequent first."""
    found = plain_reasons(rows).value_counts()
    return {str(name): int(count) for name, count in sorted(found.items(), key=lambda one: (-one[1], str(one[0])))}


def verified(training: pd.DataFrame) -> str:
    """How the outcomes of the training images were verified, as far as their diagnoses tell, with counts."""
    said = []
    for source, part in training.groupby("source"):
        benign = part[part["target"] == 0]
        unknown = int((benign["diagnosis"].isna() | (benign["diagnosis"] == "unknown")).sum())
        named = "each of a named diagnosis"
        if unknown:
            named = (
                f"of which {unknown:,} have no diagnosis but that they are benign, not necessarily by histopathology"
            )
        melanomas = int((part["target"] == 1).sum())
        name = str(source) if source else "The outside set"
        said.append(f"{name} has {melanomas:,} melanomas and {len(benign):,} others, {named}")
    cancers = int(training["diagnosis"].isin(["BCC", "SCC"]).sum())
    other = f" Carcinomas count as no melanoma: {cancers:,} images (BCC, SCC)." if cancers else ""
    return "; ".join(said) + "." + other


def counts(rows: pd.DataFrame) -> dict[str, Cell]:
    """Images, melanomas, patients, lesions and groups of rows; None for melanomas where no target is known."""
    known = rows["target"] >= 0
    return {
        "images": len(rows),
        "melanomas": int((rows["target"] == 1).sum()) if known.any() else None,
        "patients": int(rows["patient"].nunique()),
        "lesions": int(rows["lesion"].nunique()),
        "groups": int(rows["group"].nunique()),
    }


def _table(stages: dict[str, pd.DataFrame]) -> Table:
    rows: list[dict[str, Cell]] = []
    for stage, part in stages.items():
        for source in ("all", *sorted(part["source"].unique())):
            own = part if source == "all" else part[part["source"] == source]
            name = "outside" if source == 0 else str(source)
            rows.append({"stage": stage, "source": name, **counts(own)})
    everything = stages["rows of the tables"]
    reason = plain_reasons(everything)
    for name in reasons_of(everything):
        own = everything[reason == name]
        rows.append({"stage": f"left out: {name}", "source": "all", **counts(own)})
    return Table(
        name="participant_flow",
        caption="Every stage by source. A group is what must share a fold: a patient, a lesion, duplicates. 2019 names "
        "no patients and 2020 no lesions unless the archive's second table is there.",
        rows=rows,
    )


def _diagnoses(training: pd.DataFrame) -> Table:
    counted = training.assign(diagnosis=training["diagnosis"].fillna("missing")).groupby(["source", "diagnosis"])
    rows: list[dict[str, Cell]] = [
        {"source": str(part["source"].iloc[0] or "outside"), "diagnosis": str(part["diagnosis"].iloc[0]),
         "images": len(part), "melanomas": int((part["target"] == 1).sum())}
        for _, part in counted
    ]  # fmt: skip
    rows.sort(key=lambda row: (str(row["source"]), -int(str(row["images"]))))
    return Table(
        name="diagnoses",
        caption="Diagnoses of the training images as the tables spell them.",
        rows=rows,
        folded=True,
    )


def _drawn(stages: dict[str, pd.DataFrame]) -> Figure:
    """Boxes and arrows from top to bottom, what leaves the way at the right."""
    figure = Figure(figsize=(5.0, 5.6), layout="constrained")
    axis = figure.subplots()
    axis.set_xlim(0, 10)
    axis.set_ylim(0, 8.5)
    axis.axis("off")
    rows, training, judged = stages["rows of the tables"], stages["training"], stages["judged out of fold"]
    without = len(training) - len(judged)
    main = [
        (7.5, ["Rows of the tables", *_lines(rows)]),
        (4.2, ["Training images", *_lines(training)]),
        (0.95, ["Judged out of fold", *_lines(judged)]),
    ]
    for number, (y, lines) in enumerate(main):
        _box(axis, 2.6, y, 4.8, lines, COLOURS[0])
        if number:
            axis.annotate("", (2.6, y + 0.9), (2.6, main[number - 1][0] - 0.9), arrowprops=_ARROW)
    reasons = [f"{count:,} {reason}" for reason, count in reasons_of(rows).items()]
    aside = [
        (6.3, ["Left out", *(reasons or ["nothing"])]),
        (5.3, ["Test and extra images", f"{len(stages['test']):,} and {len(stages['extra']):,}"]),
        (3.0, ["Trained on by a member", f"{len(stages['trained on']):,} images"]),
        (2.1, ["In no held-out fold", f"{without:,} images"]),
    ]
    for bottom, lines in aside:
        _box(axis, 7.7, bottom + _height(lines) / 2, 4.4, lines, MUTED)
        axis.annotate("", (5.45, bottom + 0.2), (2.6, bottom + 0.2), arrowprops=_ARROW)
    return figure


_ARROW = {"arrowstyle": "-|>", "color": MUTED, "shrinkA": 0, "shrinkB": 0}


def _height(lines: Sequence[str]) -> float:
    """Of a box around so many lines."""
    return 0.3 * len(lines) + 0.2


def _lines(part: pd.DataFrame) -> list[str]:
    """What a box says of its rows: images, melanomas, and images by source."""
    sources = part["source"].value_counts().sort_index()
    named = ", ".join(f"{source or 'outside'}: {count:,}" for source, count in sources.items())
    melanomas = int((part["target"] == 1).sum())
    return [f"{len(part):,} images", f"{melanomas:,} melanomas", f"{part['group'].nunique():,} groups", named]


def _box(axis: Any, x: float, y: float, width: float, lines: Sequence[str], colour: str) -> None:
    """A box around lines of text, centred at x, y; the first line is its title."""
    height = _height(lines)
    corner = (x - width / 2, y - height / 2)
    axis.add_patch(
        FancyBboxPatch(corner, width, height, boxstyle="round,pad=0,rounding_size=0.12", fc="white", ec=colour)
    )
    for number, line in enumerate(lines):
        weight = "bold" if number == 0 else "normal"
        top = y + height / 2 - 0.25 - 0.3 * number
        axis.text(x, top, line, ha="center", va="center", fontsize=8.5, color=INK, fontweight=weight)
