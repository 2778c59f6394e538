"""How the members were trained: curves by epoch, and what choosing the epoch on the fold would have claimed."""

from pathlib import Path
from typing import Any

from engine.records import damaged_lines, epoch_lines
from report.case import Case
from report.figures import training_curves
from report.page import Cell, Picture, Section, Table


def section(case: Case) -> Section:
    """training_curves.png, and a row for each member."""
    rows: list[dict[str, Cell]] = []
    drawn: dict[str, list[Path]] = {}
    for member in case.members:
        lines = epoch_lines(member.folder)
        if lines:
            drawn.setdefault(member.model, []).append(member.folder)
        fold = "none" if member.fold is None else str(member.fold)
        rows.append({"member": member.name, "fold": fold, **_row(lines)})
    table = Table(name="members", caption="Members; AUC on the fold that each was trained without", rows=rows)
    curves = Picture(
        name="training_curves",
        figure=training_curves(drawn),
        caption="Training loss and AUC on the held-out fold after each epoch, a line for each fold. Where the loss "
        "falls and the AUC does not rise any more, further epochs only memorise.",
    )
    damaged = sum(damaged_lines(member.folder) for member in case.members)
    lost = f" {damaged} lines of the members' metrics.jsonl cannot be read and are left out." if damaged else ""
    return Section(title="Training", lead=_lead(rows) + lost, parts=[*([curves] if drawn else []), table])


def _row(lines: list[dict[str, Any]]) -> dict[str, Cell]:
    aucs = [line["auc"] for line in lines if line.get("auc") is not None]
    return {
        "epochs": len(lines),
        "AUC, last epoch": aucs[-1] if aucs else None,
        "AUC, best epoch": max(aucs, default=None),
        "best epoch": 1 + aucs.index(max(aucs)) if aucs else None,
        "images/s": round(lines[-1].get("images_per_s") or 0) if lines else None,
    }


def _lead(rows: list[dict[str, Any]]) -> str:
    gaps = [row["AUC, best epoch"] - row["AUC, last epoch"] for row in rows if row["best epoch"]]
    if not gaps:
        return f"{len(rows)} members, none with a record of a held-out fold."
    return (
        f"Reported is the last epoch of each of {len(rows)} members. Choosing the best epoch on the fold that judges "
        f"would have claimed {sum(gaps) / len(gaps):.3f} more AUC on average, which is optimism and no skill."
    )
