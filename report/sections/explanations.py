"""Where the members look (Grad-CAM), and how often a decision depends on the view of the picture."""

from collections.abc import Mapping, Sequence
from textwrap import shorten
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from configs.colours import COLOURS, INK
from configs.errors import UserError
from engine.distributed import Ranks
from engine.explain import heat_map
from engine.members import LoadedMember
from evaluation.discrimination import Bools, Estimate, Floats
from evaluation.operating import WANTED
from report.artefacts.figures import bare
from report.artefacts.scoring import Indices, pictures, ranks_of, unseen_by
from report.case import Case
from report.page import Cell, Part, Picture, Section, Table
from report.style import panels

TITLE = "Explanations and stability"
EACH = 4
"""Pictures of each kind: melanomas found and missed, others cleared and alarmed."""
LEVELS = (1 / 3, 2 / 3)
"""Where lines are drawn, of the most heat."""
PUBLISHED = (0.065, 0.22)
"""Share of lesions that simple transformations flip for published models (A. T. Young et al., npj Digital Medicine 4,
2021, 10)."""
_CAN = (
    "Grad-CAM shows which coarse regions of a picture raise the melanoma logit, averaged over the members that were "
    "not trained on it. It can show that a decision does not rest on the lesion (heat on a ruler, a rim, a corner). It "
    "cannot show why a region counts, and heat on the lesion is no proof that the decision is sound."
)

Heat = npt.NDArray[np.float32]


def section(case: Case) -> Section:
    """Overlays of the most confident right and wrong decisions, and the flip rates."""
    kinds = most_confident(case.judgement.oof.target, case.judgement.raw, _decision(case), EACH)
    heats = _heat_maps(case, np.concatenate(list(kinds.values())))
    parts: list[Part] = [_CAN]
    if heats:
        parts.append(_overlays(case, kinds, heats))
    else:
        parts.append("No member has a convolutional backbone that sees the picture, so there is no map to show.")
    flips = _flips(case)
    parts.append(_flip_table(flips))
    return Section(title=TITLE, lead=_lead(flips), parts=parts)


def most_confident(target: Bools, score: Floats, decision: Bools, count: int) -> dict[str, Indices]:
    """Up to `count` samples of each kind, the most confident first: target, score and decision [N]."""
    kinds = {
        "melanoma, found": (target & decision, -score),
        "melanoma, missed": (target & ~decision, score),
        "other, cleared": (~target & ~decision, score),
        "other, called suspicious": (~target & decision, -score),
    }
    found = {}
    for kind, (rows, order) in kinds.items():
        places = np.flatnonzero(rows)
        found[kind] = places[np.argsort(order[places], kind="stable")[:count]]
    return found


def _decision(case: Case) -> Bools:
    """Whether each sample is suspicious at 90 % sensitivity [N]."""
    decision: Bools = case.judgement.raw >= case.judgement.fitted.thresholds[WANTED.index(0.90)]
    return decision


# ---- Grad-CAM ----


def _heat_maps(case: Case, chosen: Indices) -> dict[int, Heat]:
    """A map [H, W] from 0 to 1 for each sample whose members have a convolutional backbone."""
    heats: dict[int, Heat] = {}
    with ranks_of(case) as ranks:
        for fold, members in unseen_by(case, ranks):
            rows = chosen[case.judgement.oof.fold[chosen] == fold]
            for number, pixels in zip(rows.tolist(), pictures(case.shards, case.index[rows]), strict=True):
                heat = _heat(case, members, number, pixels, ranks)
                if heat is None:
                    break  # nor will these members have one for another picture
                heats[number] = heat
    return heats


def _heat(
    case: Case, members: Sequence[LoadedMember], number: int, pixels: npt.NDArray[np.uint8], ranks: Ranks
) -> Heat | None:
    row = case.index[number]
    meta = [torch.from_numpy(case.shards.meta(each.member.meta)[[row]]).to(ranks.device) for each in members]
    try:
        return heat_map(members, torch.from_numpy(pixels)[None].to(ranks.device), meta)
    except UserError:
        return None


def _overlays(case: Case, kinds: Mapping[str, Indices], heats: Mapping[int, Heat]) -> Picture:
    figure, axes = panels(EACH * len(kinds), rows=len(kinds), width=1.6, height=2.25)
    for axis in axes:
        bare(axis)
    for line, (kind, chosen) in enumerate(kinds.items()):
        row = axes[line * EACH : (line + 1) * EACH]
        row[0].set_title(kind if len(chosen) else f"{kind}: none", fontsize=9, color=INK, loc="left")
        shown = pictures(case.shards, case.index[chosen])
        for axis, number, pixels in zip(row, chosen.tolist(), shown, strict=False):
            axis.imshow(pixels)
            if number in heats and heats[number].max() > LEVELS[0]:
                axis.contour(heats[number], LEVELS, colors=("white", COLOURS[3]), linewidths=(1, 2))
            axis.set_xlabel(_label(case, number), fontsize=8, color=INK, loc="left")
    return Picture(
        name="gradcam",
        figure=figure,
        caption=f"The {EACH} most confident decisions of each kind at the threshold of 90 % sensitivity. Lines enclose "
        "what raises the melanoma logit, white by a third of the most and yellow by two thirds; a picture without "
        "lines has no such region. Under each: key, calibrated probability, combined score. Look for lines beside the "
        "lesion, above all in the two rows of mistakes.",
    )


def _label(case: Case, number: int) -> str:
    key = shorten(str(case.judgement.oof.key[number]).replace("_", " "), 18, placeholder="...").replace(" ", "_")
    return f"{key}\np {case.probability[number]:.2f}, score {case.judgement.raw[number]:.2f}"


# ---- stability ----


def _flips(case: Case) -> dict[str, Estimate | None]:
    """Share of pictures for which views, or models, do not all decide alike; None where it was not measured."""
    measured: dict[str, Any] = {} if case.record is None else case.record["judgement"]["stability"]
    found = {name: Estimate(**entry["flips"]) for name, entry in measured.items()}
    if "models" not in found and "models" in case.judgement.stability:
        found["models"] = case.judgement.stability["models"].flips
    return {name: found.get(name) for name in ("views", "models")}


def _lead(flips: Mapping[str, Estimate | None]) -> str:
    views = flips["views"]
    low, high = (f"{100 * share:.3g}" for share in PUBLISHED)
    beside = f"published models flip {low} to {high} % of lesions under simple transformations (Young 2021)"
    if views is None:
        return f"How often a flipped view of a picture flips the decision was not measured; {beside}."
    interval = f"{views.value:.1%} ({views.low:.1%} to {views.high:.1%})"
    return f"For {interval} of the pictures, flips and turns of the picture do not all get the same decision; {beside}."


def _flip_table(flips: Mapping[str, Estimate | None]) -> Table:
    column = "share of pictures whose decision flips"
    rows: list[dict[str, Cell]] = [{"between": name, column: flip or "not measured"} for name, flip in flips.items()]
    rows.append({"between": "simple transformations, Young 2021", column: f"{PUBLISHED[0]} to {PUBLISHED[1]}"})
    return Table(
        name="flips",
        caption="The share of pictures for which views, or the models, do not all decide alike at 90 % sensitivity. "
        "A lesion whose answer flips with the camera's angle has no reliable answer. Views are measured by infer.py "
        "--ensemble with --views 2 or more.",
        rows=rows,
    )
