"""The TRIPOD+AI checklist, as far as a run can fill it in.

Items in our own words, after G. S. Collins et al., "TRIPOD+AI statement: updated guidance for reporting clinical
prediction models that use regression or machine learning methods", BMJ 2024;385:e078378.
"""

from collections.abc import Mapping

from report.case import Case
from report.page import Cell, Section, Table

_ANSWERED, _NOT = "answered by this run: ", "not answered: "
_TOPICS = (
    "Title: a prediction model, its population and outcome",
    "Abstract: by TRIPOD+AI for Abstracts",
    "Background: context, intended use, known inequalities",
    "Objectives: development, evaluation, or both",
    "Data: sources, dates",
    "Participants: setting, eligibility, treatments",
    "Data preparation: quality checks, the same for all groups",
    "Outcome: definition, who assessed it, blinding",
    "Predictors: choice, definition, who assessed them",
    "Sample size: how it was arrived at",
    "Missing data: how they were handled",
    "Analysis: use of the data, model, measures, heterogeneity",
    "Class imbalance: methods, recalibration",
    "Fairness: methods and their reasons",
    "Output: what it is, thresholds",
    "Training and evaluation: differences between their data",
    "Ethical approval",
    "Open science: funding, interests, protocol, registration, data, code",
    "Patient and public involvement",
    "Participants: flow, characteristics, development and evaluation",
    "Development: participants and events in each analysis",
    "Specification: all that is needed to predict for an individual",
    "Performance: with intervals, in subgroups, between clusters",
    "Updating: results of it",
    "Interpretation: of the main results and fairness",
    "Limitations: bias, uncertainty, generalisability",
    "Usability: poor input, who must do what, next steps",
)
_OF_THE_AUTHORS = {
    1: "the title",
    2: "the abstract",
    3: "why the model is needed, who is to use it where in care, and which inequalities are known",
    6: "clinics, eligibility and treatments; the tables name none of them",
    10: "why so many; what the numbers allow is in the intervals of every figure",
    14: "what was done for fairness and why; the tables name no skin type, so that nothing is known about skin tones",
    17: "the ethics committee, or why none was asked; both years' images are public (CC-BY-NC)",
    18: "funding, interests, protocol and registration; the data are public, the code is the repository of this page",
    19: "whether patients and the public were involved",
    25: "what the results mean beside earlier studies",
}
"""Items that no run can answer, and what has to be written."""


def section(case: Case) -> Section:
    """The checklist with this run's answers."""
    answers = answers_of(case)
    rows: list[dict[str, Cell]] = [
        {
            "item": number,
            "topic": topic,
            "answer": _ANSWERED + answers[number] if number in answers else _NOT + _OF_THE_AUTHORS[number],
        }
        for number, topic in enumerate(_TOPICS, 1)
    ]
    return Section(
        title="Checklist: TRIPOD+AI",
        lead=f"A run can answer {len(answers)} of the 27 items of TRIPOD+AI (Collins et al., BMJ 2024;385:e078378), "
        "some of them in part; the others are for the authors of a paper to write.",
        parts=[
            Table(
                name="tripod_ai",
                caption="The items in short words, and where this page answers them. An answer here is no substitute "
                "for the statement's own explanations.",
                rows=rows,
                folded=True,
            )
        ],
    )


def answers_of(case: Case) -> Mapping[int, str]:
    """What this run says to each item that it can answer, by number."""
    return {**_about_data(case), **_about_models(case), **_about_results(case)}


def _about_data(case: Case) -> dict[int, str]:
    rows, judged, manifest = case.rows, case.judged, case.shards.manifest
    sources = ", ".join(str(source) if source else "an outside set" for source in sorted(rows["source"].unique()))
    training = rows[rows["left_out"].isna() & (rows["split"] == "train")]
    missing = ", ".join(f"{name} {training[name].isna().mean():.1%}" for name in ("sex", "age", "site"))
    encoded = f"{manifest.size} x {manifest.size} pixels ({manifest.options['fit']})"
    kept = int(rows["left_out"].isna().sum())
    return {
        5: f"ISIC challenges {sources}; the tables name no dates, which the authors must add",
        7: f"{kept:,} of {len(rows):,} rows kept, duplicates: {manifest.options['duplicates']}, images stored at "
        f"{encoded}; see Who is in it",
        8: "melanoma against everything else, carcinomas included; how it was verified is in Who is in it; who "
        "assessed it, and whether blinded, is not in the tables",
        9: f"the dermoscopic picture, {_predictors(case)}; who recorded them is not in the tables",
        11: f"missing among the training images: {missing}; a missing value is a value of its own, no row is left out "
        "for it",
        16: "sources, sub-sources and their melanoma rates are in The data; what happens on a source that was not "
        f"trained on is in Shortcuts{'' if case.config.compare else ' once --compare is given'}",
        20: f"the flow is in Who is in it, characteristics in The data: {len(judged):,} images judged, "
        f"{int((judged['target'] == 1).sum()):,} melanomas",
    }


def _predictors(case: Case) -> str:
    inputs = {member.config["model"]["inputs"] for member in case.members}
    if inputs == {"image"}:
        return "alone"
    kinds = sorted({member.meta for member in case.members})
    return f"with metadata ({', '.join(kinds)}: sex, age, site, what of them is missing)"


def _about_models(case: Case) -> dict[int, str]:
    judgement = case.judgement
    found = sorted({float(member.config["optim"]["positive_weight"]) for member in case.members})
    weights = [f"{weight:g}" if weight else "others / melanomas" for weight in found]
    calibrated = judgement.fitted.calibrators
    kinds = ", ".join(f"{name}: {each.kind}" for name, each in calibrated.items())
    thresholds = ", ".join(f"{point.threshold:.3f}" for point in judgement.operating_points)
    unsafe = case.shards.manifest.unsafe
    crossed = f"({unsafe})" if unsafe else "that no known patient, lesion or duplicate crosses"
    folds = len(set(judgement.oof.fold.tolist()))
    return {
        4: "a model is developed, and evaluated internally; there is no external evaluation",
        12: f"{len(case.members)} members of {len(judgement.oof.models)} models, combined by {judgement.combine}; "
        f"{folds} folds {crossed}; AUC, calibration and operating points with "
        "intervals over these; see Performance and Calibration",
        13: f"weight of a melanoma in the loss: {', '.join(weights)}; calibrated afterwards ({kinds or 'not'})",
        15: f"a probability of melanoma; thresholds of the operating points: {thresholds}",
        22: "every member's settings lie beside its weights; infer.py --export writes a bundle that predicts",
        24: "no model was updated" + (f"; the probabilities are calibrated ({kinds})" if kinds else ""),
    }


def _about_results(case: Case) -> dict[int, str]:
    oof, row = case.judgement.oof, case.judgement.table[-1]
    by_fold = [f"{int(oof.target[oof.fold == fold].sum()):,}" for fold in sorted(set(oof.fold.tolist()))]
    found = [
        f"{part} {each.value:.3f} ({each.low:.3f} to {each.high:.3f})"
        for part, each in row.over_groups.items()
        if each.value == each.value and (part == "merged" or (oof.target[oof.source == int(part)]).sum() >= 50)
    ]
    return {
        21: f"{len(oof.key):,} images and {int(oof.target.sum()):,} melanomas; melanomas by fold: {', '.join(by_fold)}",
        23: f"AUC {', '.join(found)}; see Performance, Calibration, Subgroups",
        26: "shortcuts, artefacts, leaks and subgroups that are too small are measured in their chapters; that the "
        "images are no sample of a clinic's patients is for the authors to discuss",
        27: "what cannot be decoded is refused, and unlike pictures are marked unusual by infer.py; who must judge the "
        "answer, and next steps, are for the authors to say",
    }
