"""What artefacts do to the scores: each drawn onto pictures that do not show it, beside a control of the same shape.

A network may react to any change of a picture. So what counts is by how much more the artefact moves the log odds than
the same strokes in the colour of the skin do, and that against LIMIT standard deviations of all out-of-fold log odds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan
from typing import Literal

import numpy as np

from evaluation.bootstrap import bootstrapped_sums, percentile_interval
from evaluation.calibration import clipped_logit
from evaluation.discrimination import Bools, Estimate, Floats, auc, paired_auc_difference, wilson_interval
from evaluation.operating import WANTED
from report.artefacts.detectors import DETECTORS
from report.artefacts.drawing import DRAWINGS, Drawing
from report.artefacts.scoring import Indices, pictures, ranks_of, scores_of, unchanged
from report.case import Case

LIMIT = 0.25
"""Standard deviations of the log odds, between a small and a medium effect (J. Cohen, Statistical Power Analysis for
the Behavioral Sciences, 1988: 0.2 and 0.5)."""
FEWEST = 50
"""Pictures that an effect is judged on, at least."""
GROUPS = ("all", "melanoma", "other")
Finding = Literal["beyond the limit", "undecided", "within the limit", "too few"]


@dataclass(frozen=True, kw_only=True)
class Effect:
    """What one artefact does to one group of pictures; log odds are those of the combined score."""

    artefact: str
    """Name of the drawing."""
    group: str
    """all, melanoma or other."""
    pictures: int
    """Pictures that did not show it before."""
    change: Estimate
    """Mean change of the log odds by the artefact."""
    control: Estimate
    """Mean change by the same strokes in the colour of the skin."""
    beyond: Estimate
    """Mean of the difference between the two, picture by picture."""
    below: int
    """Pictures below the threshold of 90 % sensitivity before."""
    raised: Estimate
    """The share of them that it lifts over the threshold."""
    lowered: Estimate
    """The share of the others that it takes below."""


@dataclass(frozen=True, kw_only=True)
class Misuse:
    """The AUC if only one class showed the artefact."""

    artefact: str
    """Name of the drawing."""
    drawn_on: str
    """melanoma or other: all pictures of this class."""
    auc: float
    """Of the combined score then."""
    change: Estimate
    """Against the AUC of the pictures as they are."""


@dataclass(frozen=True, kw_only=True)
class Stress:
    """The stress test of an ensemble."""

    chosen: Indices
    """The pictures [n], numbered as in the judgement."""
    fewest: int
    """Pictures of the rarer class among them."""
    spread: float
    """Standard deviation of all out-of-fold log odds."""
    effects: tuple[Effect, ...]
    """By artefact and group."""
    misuse: tuple[Misuse, ...]
    """By artefact and class."""

    @property
    def limit(self) -> float:
        """An effect beyond this calls the artefact a shortcut, in log odds."""
        return LIMIT * self.spread

    def finding(self, effect: Effect) -> Finding:
        """Whether the interval of an effect lies beyond the limit, on either side of 0, or within both."""
        if effect.pictures < FEWEST:
            return "too few"
        if effect.beyond.low > self.limit or effect.beyond.high < -self.limit:
            return "beyond the limit"
        inside = -self.limit <= effect.beyond.low and effect.beyond.high <= self.limit
        return "within the limit" if inside else "undecided"

    def of(self, finding: Finding) -> list[Effect]:
        """The artefacts with this finding: their effects on all pictures."""
        return [effect for effect in self.effects if effect.group == "all" and self.finding(effect) == finding]


def stress_test(case: Case) -> Stress:
    """Draw every artefact onto config.stressed pictures, half of them melanomas if there are so many; score them."""
    oof, config = case.judgement.oof, case.config
    chosen = drawn_by_class(oof.target, config.stressed, config.seed)
    changes = [unchanged, *(change for drawing in DRAWINGS for change in (drawing, drawing.control))]
    with ranks_of(case) as ranks:
        scores = scores_of(case, chosen, changes, ranks)
    shown = _shown(case, chosen)
    target, group = oof.target[chosen], oof.group[chosen]
    effects, misuse = [], []
    for number, drawing in enumerate(DRAWINGS):
        drawn, control = scores[2 * number + 1], scores[2 * number + 2]
        absent = ~shown[number]
        for name, rows in zip(GROUPS, (absent, absent & target, absent & ~target), strict=True):
            effects.append(_effect(case, drawing, name, scores[0], drawn, control, group, rows))
        misuse += [_misuse(drawing, name, target, scores[0], drawn) for name in GROUPS[1:]]
    spread = float(np.std(clipped_logit(case.judgement.raw)))
    fewest = int(min(target.sum(), (~target).sum()))
    return Stress(chosen=chosen, fewest=fewest, spread=spread, effects=tuple(effects), misuse=tuple(misuse))


def drawn_by_class(target: Bools, count: int, seed: int) -> Indices:
    """Numbers of `count` samples at random, sorted: half of them positives and half negatives, as far as there are."""
    rng = np.random.default_rng(seed)
    positive, negative = (rng.permutation(np.flatnonzero(target == wanted)) for wanted in (True, False))
    positives = min(len(positive), max(count // 2, count - len(negative)))
    return np.sort(np.concatenate([positive[:positives], negative[: count - positives]]))


def _shown(case: Case, chosen: Indices) -> Bools:
    """Whether each picture shows each drawing's artefact already [D, n]."""
    detectors = {each.name: each for each in DETECTORS}
    found = [
        [detectors[drawing.detector](pixels) for drawing in DRAWINGS]
        for pixels in pictures(case.shards, case.index[chosen])
    ]
    return np.array(found, dtype=np.bool_).reshape(len(chosen), len(DRAWINGS)).T


def _effect(
    case: Case,
    drawing: Drawing,
    name: str,
    base: Floats,
    drawn: Floats,
    control: Floats,
    group: Indices,
    rows: Bools,
) -> Effect:
    odds = [clipped_logit(score[rows]) for score in (base, drawn, control)]
    changes = (odds[1] - odds[0], odds[2] - odds[0], odds[1] - odds[2])
    change, control_change, beyond = _means(changes, group[rows], case.config.draws, case.config.seed)
    threshold = case.judgement.fitted.thresholds[WANTED.index(0.90)]
    before, after = base[rows] >= threshold, drawn[rows] >= threshold
    return Effect(
        artefact=drawing.name,
        group=name,
        pictures=int(rows.sum()),
        change=change,
        control=control_change,
        beyond=beyond,
        below=int((~before).sum()),
        raised=wilson_interval(int((after & ~before).sum()), int((~before).sum())),
        lowered=wilson_interval(int((before & ~after).sum()), int(before.sum())),
    )


def _means(values: Sequence[Floats], group: Indices, draws: int, seed: int) -> list[Estimate]:
    """The mean of each of several values [n] with its interval over groups [n]; NaN for no values."""
    if not len(group):
        return [Estimate(nan, nan, nan)] * len(values)
    columns = np.stack([*values, np.ones(len(group))], axis=1)
    sums = bootstrapped_sums(columns, group, draws=draws, seed=seed)
    found = sums[:, :-1] / sums[:, -1:]
    return [percentile_interval(float(value.mean()), column) for value, column in zip(values, found.T, strict=True)]


def _misuse(drawing: Drawing, drawn_on: str, target: Bools, base: Floats, drawn: Floats) -> Misuse:
    rows = target if drawn_on == "melanoma" else ~target
    score = np.where(rows, drawn, base)
    known = target.any() and not target.all()
    return Misuse(
        artefact=drawing.name,
        drawn_on=drawn_on,
        auc=auc(target, score),
        change=paired_auc_difference(target, score, base) if known else Estimate(nan, nan, nan),
    )
