"""The page of a case: its sections in reading order, and the verdict that stands on top of them."""

import time
from collections.abc import Callable

from configs.console import plain_console
from engine.records import versions
from report.case import Case
from report.page import Section
from report.sections import (
    calibration,
    data,
    errors,
    explanations,
    flow,
    leaks,
    performance,
    pictures,
    shortcuts,
    subgroups,
    training,
    tripod,
)
from report.write import Page

# In reading order. The names say which of them speak in the verdict.
SECTIONS: dict[str, Callable[[Case], Section]] = {
    "flow": flow.section,
    "data": data.section,
    "training": training.section,
    "performance": performance.section,
    "calibration": calibration.section,
    "subgroups": subgroups.section,
    "errors": errors.section,
    "shortcuts": shortcuts.section,
    "pictures": pictures.section,
    "leaks": leaks.section,
    "explanations": explanations.section,
    "tripod": tripod.section,
}
VERDICT = (("performance",), ("calibration",), ("subgroups",), ("shortcuts", "pictures"), ("leaks",))
"""The lines of the verdict, and whose they are."""


def build_page(case: Case) -> Page:
    """Every section of the report on `case`; prints how long each took."""
    console = plain_console()
    sections: dict[str, Section] = {}
    for name, make in SECTIONS.items():
        start = time.perf_counter()
        sections[name] = make(case)
        console.print(f"{name}: {time.perf_counter() - start:.1f} s")
    said = (" ".join(filter(None, (sections[name].verdict for name in names))) for names in VERDICT)
    used = ", ".join(f"{name} {version}" for name, version in versions().items() if version != "not installed")
    manifest = case.shards.manifest
    return Page(
        title="Melanoma ensemble: what it can do, and what it cannot",
        subtitle=_subtitle(case),
        warnings=_warnings(case),
        verdict=[f"{line[0].upper()}{line[1:].removesuffix('.')}." for line in said if line],
        sections=list(sections.values()),
        footer=f"Made by python -m report of {case.config.runs} and {case.config.shards} (labels: SHA-256 "
        f"{manifest.labels_sha256}). {used}.",
    )


def _subtitle(case: Case) -> str:
    oof = case.judgement.oof
    folds = len(set(oof.fold.tolist()))
    return (
        f"{len(case.members)} members of {len(oof.models)} models, combined by {case.judgement.combine}, judged out of "
        f"fold over {folds} folds on {len(oof.key):,} images with {int(oof.target.sum()):,} melanomas: each image is "
        "scored by the members that were trained without it. Intervals are of 95 %, from a bootstrap that draws whole "
        "patients and lesions, unless another method is named. A research tool, not a medical device: nothing here is "
        "clinical evidence."
    )


def _warnings(case: Case) -> list[str]:
    found = []
    if case.shards.manifest.unsafe:
        found.append(f"For comparison only: the shard set was {case.shards.manifest.unsafe}.")
    if case.record is not None and any(entry["chosen"] for entry in case.record["members"]):
        found.append("Some weights were chosen on the fold that judges them here, so these figures are optimistic.")
    left_out = case.shards.manifest.left_out
    if left_out > len(case.shards):
        found.append(
            f"Only {len(case.shards):,} of the {len(case.rows):,} rows of the tables have an image here. A part is no "
            "random sample: figures compare systems with each other, and are not those of the whole."
        )
    return found
