"""The figures of the section on artefacts."""

from itertools import product
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from configs.colours import COLOURS, INK, MUTED
from evaluation.discrimination import Bools
from report.artefacts.detectors import DETECTORS
from report.artefacts.drawing import DRAWINGS
from report.artefacts.scoring import Indices, pictures
from report.artefacts.stress import GROUPS, Stress
from report.case import Case
from report.page import Picture
from report.style import finish, panels

_EXAMPLES = 4


def bare(axis: Any) -> None:
    """Take ticks and frame from a panel that shows a picture; its title and label stay."""
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)


def examples(case: Case, chosen: Indices, flagged: Bools) -> Picture:
    """Four pictures that each rule flags, drawn at random."""
    rng = np.random.default_rng(case.config.seed)
    figure, axes = panels(_EXAMPLES * len(DETECTORS), rows=len(DETECTORS), width=1.4, height=1.62)
    for axis in axes:
        bare(axis)
    for line, (detector, row) in enumerate(zip(DETECTORS, flagged, strict=True)):
        shown = np.sort(rng.permutation(chosen[row])[:_EXAMPLES])
        first = axes[line * _EXAMPLES]
        share = f"{detector.name}: {int(row.sum()):,} of {len(row):,} pictures ({row.mean():.1%})"
        axes[line * _EXAMPLES + 1].set_title(" ", fontsize=9)  # keeps the space
        first.set_title(share, fontsize=9, color=INK, loc="left").set_in_layout(False)  # wider than its picture
        for axis, pixels in zip(axes[line * _EXAMPLES :], pictures(case.shards, case.index[shown]), strict=False):
            axis.imshow(pixels)
        if not len(shown):
            first.text(0, 0.5, "none found", fontsize=9, color=MUTED)
    return Picture(
        name="artefacts",
        figure=figure,
        caption="Pictures that each rule flags, drawn at random. A picture that does not show what its row says is a "
        "mistake of the rule: where there are many, do not trust that row's figures.",
    )


def drawn_on(case: Case, stress: Stress) -> Picture:
    """One picture, what is drawn on it, and the controls."""
    number = int(stress.chosen[len(stress.chosen) // 2])
    (pixels,) = pictures(case.shards, case.index[[number]])
    figure, axes = panels(2 * (len(DRAWINGS) + 1), rows=2, width=1.45, height=1.6)
    shown = [pixels, *(drawing(pixels, number) for drawing in DRAWINGS), None]
    shown += [drawing.control(pixels, number) for drawing in DRAWINGS]
    titles = ["as stored", *(drawing.name for drawing in DRAWINGS), "", *(["control"] * len(DRAWINGS))]
    for axis, image, title in zip(axes, shown, titles, strict=True):
        bare(axis)
        if image is not None:
            axis.imshow(image)
            axis.set_title(title, fontsize=9, color=INK, loc="left")
    return Picture(
        name="drawn_on",
        figure=figure,
        caption="What is drawn on the pictures of the stress test, and below it the same strokes in the colour of the "
        "skin. Only an effect beyond that of the strokes counts, since any change of a picture may move a score.",
    )


def stress_figure(stress: Stress) -> Picture:
    """The effect beyond the control by artefact and group, with the limit."""
    figure = Figure(figsize=(5.6, 3.6), layout="constrained")
    axis = figure.subplots()
    axis.axvspan(-stress.limit, stress.limit, color=MUTED, alpha=0.12, linewidth=0)
    for side in (-1, 1):
        axis.axvline(side * stress.limit, color=COLOURS[1], linewidth=1.2, linestyle="--")
    axis.axvline(0, color=MUTED, linewidth=0.8)
    places: list[float] = []
    for number, (drawing, group) in enumerate(product(DRAWINGS, GROUPS)):
        (effect,) = (each for each in stress.effects if (each.artefact, each.group) == (drawing.name, group))
        place, kind = -(number + number // len(GROUPS)), GROUPS.index(group)
        places.append(place)
        axis.plot([effect.beyond.low, effect.beyond.high], [place, place], color=COLOURS[kind], linewidth=2)
        axis.plot([effect.beyond.value], [place], "osD"[kind], color=COLOURS[kind], markersize=6)
    axis.set_yticks(places, [f"{drawing.name}, {group}" for drawing, group in product(DRAWINGS, GROUPS)])
    edge = 1.15 * max(stress.limit, *np.abs(axis.get_xlim()))
    axis.set_xlim(-edge, edge)
    finish(axis, "Effect of an artefact drawn on", "change of the log odds beyond the control's (dashed: limit)")
    axis.tick_params(axis="y", labelsize=9, labelcolor=INK)
    return Picture(
        name="stress_test",
        figure=figure,
        caption="By how much an artefact moves the log odds of melanoma, beyond what the same strokes in the colour of "
        "the skin do, with 95 % intervals over patients and lesions. An interval for all pictures that lies beyond the "
        f"dashed limit, a quarter of the log odds' standard deviation ({stress.limit:.2f}), is called a shortcut.",
    )
