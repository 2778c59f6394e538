"""Artefacts in the pictures: which there are, which go with melanoma, and which the ensemble uses."""

from collections.abc import Sequence
from itertools import product

import numpy as np

from evaluation.discrimination import Bools, Estimate, wilson_interval
from report.artefacts.detectors import DETECTORS
from report.artefacts.figures import drawn_on, examples, stress_figure
from report.artefacts.prevalence import FEWEST, Association, associations, detected, looked_at
from report.artefacts.scoring import Indices
from report.artefacts.stress import Effect, Stress, stress_test
from report.case import Case
from report.page import Cell, Part, Section, Table

TITLE = "Artefacts in the pictures"
_NONE = "This part was left out: give {} a number above 0."
_NO_CURE = (
    "Dark corners, rulers, ink, stickers and hair go with labels or with the clinic, and a network may learn them "
    "instead of the lesion (Winkler 2019, Bissoto 2020). No method removes them reliably: they are counted and drawn "
    "on here, and nothing is corrected. The rules that look for them are wrong at times; the table says how often. Gel "
    "bubbles are not looked for: no rule that was tried was right often enough."
)


def section(case: Case) -> Section:
    """Count the artefacts in config.pictures pictures, and draw them onto config.stressed ones."""
    parts: list[Part] = [_NO_CURE]
    said, tables = [], list[Part]()
    found: list[Association] = []
    if case.config.pictures:
        chosen = looked_at(case)
        flagged, oof = detected(case, chosen), case.judgement.oof
        columns = oof.target[chosen], oof.source[chosen], oof.group[chosen]
        found = associations(flagged, *columns, draws=case.config.draws, seed=case.config.seed)
        parts.append(examples(case, chosen, flagged))
        tables += [_association_table(flagged, found), _prevalence_table(flagged, *columns[:2])]
        said.append(_associated(found, len(chosen)))
    else:
        parts.append(_NONE.format("--pictures"))
    verdict = ""
    if case.config.stressed:
        stress = stress_test(case)
        verdict = _verdict(stress, found)
        parts += [drawn_on(case, stress), stress_figure(stress)]
        tables += [_stress_table(stress), _misuse_table(stress)]
        said.insert(0, verdict)
    else:
        parts.append(_NONE.format("--stressed"))
    return Section(title=TITLE, lead=" ".join(said), parts=[*parts, *tables], verdict=verdict)


# ---- what is said ----


def _verdict(stress: Stress, found: Sequence[Association]) -> str:
    """The artefacts that are called out; what remains open; else that none is, with the effects."""
    known = {association.artefact: association for association in found}
    said = [_called_out(effect, known.get(effect.artefact), stress) for effect in stress.of("beyond the limit")]
    open_ones = stress.of("undecided")
    if open_ones:
        said.append(f"Undecided at the limit of {stress.limit:.2f}: {_effects(open_ones)}; --stressed takes more.")
    few = stress.of("too few")
    if few:
        said.append(f"Too few pictures to judge {', '.join(effect.artefact for effect in few)}.")
    within = stress.of("within the limit")
    if within:
        start = "Within" if said else "No artefact drawn on moves the log odds beyond"
        said.append(f"{start} the limit of {stress.limit:.2f}: {_effects(within)}.")
    return " ".join(said)


def _called_out(effect: Effect, association: Association | None, stress: Stress) -> str:
    way = "raise" if effect.beyond.value > 0 else "lower"
    bounds = sorted(map(abs, (effect.beyond.low, effect.beyond.high)))
    line = (
        f"SHORTCUT, {effect.artefact}: drawn on, they {way} the log odds by {abs(effect.beyond.value):.1f} "
        f"({bounds[0]:.1f} to {bounds[1]:.1f}; limit {stress.limit:.1f}){_flipped(effect, stress)}: "
        "the models use them."
    )
    if association is not None and association.beyond_noise:
        line += f" In the data they go with the label: odds ratio {_interval(association.odds_ratio)}."
    return line


def _flipped(effect: Effect, stress: Stress) -> str:
    """What the artefact does to the decisions of the class that it misleads; empty for too few pictures."""
    of_class = {each.group: each for each in stress.effects if each.artefact == effect.artefact}
    if effect.beyond.value > 0 and of_class["other"].below >= FEWEST:
        return f", and {of_class['other'].raised.value:.0%} of the negatives become suspicious"
    melanoma = of_class["melanoma"]
    if effect.beyond.value < 0 and melanoma.pictures - melanoma.below >= FEWEST:
        return f", and {melanoma.lowered.value:.0%} of the melanomas found are missed"
    return ""


def _effects(effects: Sequence[Effect]) -> str:
    return ", ".join(f"{effect.artefact} {_interval(effect.beyond, sign='+')}" for effect in effects)


def _associated(found: Sequence[Association], count: int) -> str:
    beyond = [each for each in found if each.beyond_noise]
    listed = ", ".join(f"{each.artefact} (odds ratio {_interval(each.odds_ratio)})" for each in beyond)
    start = f"In {count:,} pictures, the artefacts that go with the label beyond noise, within a source, are"
    return f"{start} {listed}." if beyond else f"In {count:,} pictures, no artefact goes with the label beyond noise."


def _interval(estimate: Estimate, sign: str = "") -> str:
    return f"{estimate.value:{sign}.2f} ({estimate.low:{sign}.2f} to {estimate.high:{sign}.2f})"


# ---- tables ----


def _association_table(flagged: Bools, found: Sequence[Association]) -> Table:
    rows: list[dict[str, Cell]] = [
        {
            "artefact": each.artefact,
            "pictures": int(row.sum()),
            "share of melanomas": each.melanoma,
            "share of others": each.other,
            "odds ratio": "too few" if np.isnan(each.odds_ratio.value) else each.odds_ratio,
            "p (Holm)": "too few" if np.isnan(each.p) else float(f"{each.p:.2g}"),
            "right, of 40 flagged": detector.right,
            "missed, of 40 not flagged": detector.missed,
            "rule": detector.rule,
        }
        for detector, row, each in zip(DETECTORS, flagged, found, strict=True)
    ]
    return Table(
        name="artefacts_and_melanoma",
        caption="Which artefacts go with melanoma. The odds ratio compares melanomas with others of the same source "
        "(Mantel-Haenszel), its interval is over patients and lesions, and p is adjusted for the number of artefacts. "
        "An odds ratio far from 1 is an invitation to a shortcut; whether it is taken, the stress test says. How often "
        "a rule is right was counted by eye in 80 pictures of the real years, which its limit was chosen on too.",
        rows=rows,
    )


def _prevalence_table(flagged: Bools, target: Bools, source: Indices) -> Table:
    rows: list[dict[str, Cell]] = []
    for detector, row in zip(DETECTORS, flagged, strict=True):
        for year, wanted in product(np.unique(source).tolist(), (True, False)):
            part = row[(source == year) & (target == wanted)]
            few = len(part) < FEWEST
            rows.append(
                {
                    "artefact": detector.name,
                    "source": str(year) if year else "other",
                    "target": "melanoma" if wanted else "other",
                    "pictures": len(part),
                    "flagged": int(part.sum()),
                    "share": "too few" if few else wilson_interval(int(part.sum()), len(part)),
                }
            )
    return Table(
        name="artefact_prevalence",
        caption="How often each artefact is found, by source and target, with Wilson's 95 % intervals. A share that "
        "differs between the sources tells them apart.",
        rows=rows,
        folded=True,
    )


def _stress_table(stress: Stress) -> Table:
    rows: list[dict[str, Cell]] = [
        {
            "artefact": effect.artefact,
            "drawn on": effect.group,
            "pictures": effect.pictures,
            "change of log odds": effect.change,
            "control": effect.control,
            "beyond control": effect.beyond,
            "below the threshold": effect.below,
            "of these, then above": effect.raised if effect.below >= FEWEST else "too few",
            "above, then below": effect.lowered if effect.pictures - effect.below >= FEWEST else "too few",
            "finding": stress.finding(effect),
        }
        for effect in stress.effects
    ]
    return Table(
        name="stress_test",
        caption="Mean changes of the combined score's log odds when an artefact is drawn on pictures that do not show "
        "it, and the share of decisions that flip at the threshold of 90 % sensitivity, by target. Members that were "
        f"trained on a picture do not score it. Limit: {stress.limit:.2f}.",
        rows=rows,
    )


def _misuse_table(stress: Stress) -> Table:
    rows: list[dict[str, Cell]] = [
        {
            "artefact": each.artefact,
            "on every": each.drawn_on,
            "AUC": "too few" if stress.fewest < FEWEST else each.auc,
            "change": "too few" if stress.fewest < FEWEST else each.change,
        }
        for each in stress.misuse
    ]
    return Table(
        name="artefact_on_one_class",
        caption="The AUC of the stressed pictures if the artefact were drawn on all pictures of one class: how far the "
        "ranking can be misled. Half of these pictures are melanomas, so compare the changes, not the AUC itself.",
        rows=rows,
        folded=True,
    )
