"""Leaks: what folds share that they must not, near-duplicates that no table names, what random folds would claim."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from configs.colours import INK
from configs.errors import UserError
from evaluation.discrimination import Floats
from evaluation.neighbours import Neighbours, closest_across, unit_vectors
from prep.duplicates import VIEW
from prep.finish import DUPLICATES
from prep.folds import leaking_groups
from report.case import Case
from report.compared import LEAST, Comparison, comparisons, not_measured, table_of
from report.embedding import Embedding, embedded
from report.gallery import pixels
from report.page import Cell, Part, Picture, Section, Table
from report.style import panels

LISTED, SHOWN = 20, 8
_NAMES = {"group": "groups", "patient": "patients", "lesion": "lesions"}
_EYE = (
    "Whether two pictures show one lesion, only an eye can judge: look at the pairs below. A pair that does is a leak, "
    "and both belong into one fold."
)


def section(case: Case) -> Section:
    """The leak audit."""
    training = case.rows.iloc[: len(case.shards)]
    training = training[training["split"] == "train"]
    known, pairs = _known(case, training), duplicate_pairs(case)
    random = comparisons(case, "random")
    embedding = embedded(case)
    parts: list[Part] = []
    if embedding is None:
        parts.append("Near-duplicates by embedding: not measured (--pictures is 0, or no member sees images).")
    else:
        found = closest_across(embedding.vectors, case.shards.fold[embedding.rows], LISTED)
        if len(found.first):
            parts.append(_picture(case, embedding, found))
        parts.append(_about(case, embedding, found))
    parts += [known, pairs]
    if embedding is not None and len(found.first):
        parts.append(_listed(case, embedding, found))
    parts.append(table_of("random_folds", _RANDOM, random) if random else not_measured(case, "random"))
    said = _verdict(training, pairs, random)
    return Section(title="Leaks", lead=f"{said} {_EYE}" if embedding else said, parts=parts, verdict=said)


_RANDOM = (
    "What random folds, in which patients and lesions span folds, claim on the same images. A difference above 0 is "
    "recognition of patients and lesions, and would not be seen in new patients."
)


def _verdict(training: pd.DataFrame, pairs: Table, random: Sequence[Comparison]) -> str:
    leaking = leaking_groups(training)
    apart = sum(int(str(row[_APART])) for row in pairs.rows if row["pairs are"] != VIEW)
    if leaking or apart:
        said = (
            f"{len(leaking):,} groups of patients, lesions or duplicates span several folds, and {apart:,} pairs of "
            "duplicates lie in different ones: these figures are too good"
        )
    else:
        count = sum(int(str(row["pairs"])) for row in pairs.rows)
        said = (
            f"No known patient, lesion or duplicate is in two folds ({training['group'].nunique():,} groups, "
            f"{count:,} known pairs)"
        )
    shown = [one.difference for one in random if one.rows == "all" and one.melanomas >= LEAST]
    gains = (
        f"; random folds would have claimed {one.value:+.3f} ({one.low:+.3f} to {one.high:+.3f}) AUC" for one in shown
    )
    return said + "".join(gains) + "."


def _known(case: Case, training: pd.DataFrame) -> Table:
    """Names that several folds share, counted."""
    others = case.rows[case.rows["left_out"].isna() & (case.rows["split"] != "train")]
    rows: list[dict[str, Cell]] = []
    for column, name in _NAMES.items():
        folds = training.dropna(subset=column).groupby(column)["fold"]
        spread = folds.nunique()
        leaking = spread.index[spread > 1]
        rows.append(
            {
                "what": name,
                "distinct": len(spread),
                "with several images": int((folds.size() > 1).sum()),
                "in several folds": len(leaking),
                "images of these": int(training[column].isin(leaking).sum()),
                "also in test and extra": int(spread.index.isin(others[column]).sum()),
            }
        )
    return Table(
        name="leaks",
        caption="Names that the folds must not share, among the training images. A group joins what shares a patient, "
        "a lesion or a picture. 2019 names no patients: there, patients are kept apart as far as lesions tell.",
        rows=rows,
    )


_APART = "both kept, different folds"


def duplicate_pairs(case: Case) -> Table:
    """The pairs of duplicates.csv by kind, how they were found, and what became of their two images."""
    path = case.shards.folder / DUPLICATES
    try:
        pairs = pd.read_csv(path, dtype={"kind": "str"})
        ends = [pairs[f"image_name_{end}"] for end in (1, 2)]
        found_by = np.where(pairs["official"], "the official list", "likeness of the pixels")
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} cannot be read ({error}): build the shard set again") from error
    facts = case.rows.drop_duplicates("key").set_index("key")
    kept = [facts["left_out"].isna().reindex(end, fill_value=False).to_numpy() for end in ends]
    fold = [facts["fold"].reindex(end, fill_value=-1).to_numpy() for end in ends]
    both, trained = kept[0] & kept[1], (fold[0] >= 0) & (fold[1] >= 0)
    outcomes = {
        "both kept, one fold": both & trained & (fold[0] == fold[1]),
        _APART: both & trained & (fold[0] != fold[1]),
        "with a test or extra image": both & ~trained,
        "one or both left out": ~both,
    }
    table = pd.DataFrame({"pairs are": pairs["kind"], "found by": found_by, "pairs": 1} | outcomes)
    counted = table.groupby(["pairs are", "found by"], as_index=False).sum()
    none: dict[str, Cell] = {"pairs are": "none", "found by": "-", "pairs": 0, **dict.fromkeys(outcomes, 0)}
    rows: list[dict[str, Cell]] = [
        {str(name): value if isinstance(value, str) else int(value) for name, value in row.items()}
        for row in counted.to_dict("records")
    ] or [none]
    return Table(
        name="duplicate_pairs",
        caption="Pairs of images that show one picture, found when the set was built (perceptual hash, then "
        "correlation of pixels), and what became of them. In different folds there must be none.",
        rows=rows,
    )


def _about(case: Case, embedding: Embedding, found: Neighbours) -> str:
    """How far the search reached, and what the distances compare to."""
    count, total = len(embedding.rows), len(case.shards.train_rows(None))
    share = count * (count - 1) / max(total * (total - 1), 1)
    more = f" (--pictures {total} looks at all)" if count < total else ""
    said = (
        f"{count:,} of {total:,} training pictures, embedded by {embedding.backbone}, were compared with all those of "
        f"other folds: {share:.1%} of all pairs{more}."
    )
    views = known_distances(case, embedding)
    if len(views) and len(found.first):
        middle = float(np.median(views))
        closer = int((found.distance < middle).sum())
        listed = "all" if closer == len(found.first) else f"{closer}"
        said += (
            f" For comparison: {len(views):,} pairs of pictures of one known lesion, which share a fold, have a median "
            f"distance of {middle:.3f}; of the {len(found.first)} closest pairs across folds {listed} are closer than "
            "that. Distances of different lesions of one kind and camera are small too."
        )
    return f"{said} {_EYE}"


def known_distances(case: Case, embedding: Embedding) -> Floats:
    """Cosine distance of neighbouring pictures of each known lesion among the embedded ones."""
    lesion = case.rows["lesion"].iloc[embedding.rows].reset_index(drop=True).dropna().sort_values(kind="stable")
    order = lesion.index.to_numpy()
    same = lesion.to_numpy()[1:] == lesion.to_numpy()[:-1]
    unit = unit_vectors(embedding.vectors)
    first, second = order[:-1][same], order[1:][same]
    return np.asarray(1 - np.sum(unit[first] * unit[second], axis=1, dtype=np.float64))


def _listed(case: Case, embedding: Embedding, found: Neighbours) -> Table:
    rows: list[dict[str, Cell]] = []
    rows_of = case.rows.iloc[embedding.rows]
    ends = (rows_of.iloc[end].to_dict("records") for end in (found.first, found.second))
    for place, (one, other, distance) in enumerate(zip(*ends, found.distance.tolist(), strict=True), 1):
        cells: dict[str, Cell] = {"rank": place, "distance": distance}
        for number, row in enumerate((one, other), 1):
            cells |= {f"image {number}": str(row["key"]), f"fold {number}": int(row["fold"])}
            cells |= {f"melanoma {number}": "yes" if row["target"] == 1 else "no"}
        rows.append(cells)
    return Table(
        name="near_duplicates",
        caption="The closest pairs of pictures in different folds, by cosine distance of their embeddings, for a "
        "person to look at: they are candidates, not findings.",
        rows=rows,
        folded=True,
    )


def _picture(case: Case, embedding: Embedding, found: Neighbours) -> Picture:
    count = min(SHOWN, len(found.first))
    figure, axes = panels(count, rows=-(-count // 2), width=2.9, height=1.95)
    numbers = embedding.rows[np.stack([found.first, found.second], axis=1)[:count]]
    gap = np.full((case.shards.size, max(case.shards.size // 16, 1), 3), 255, dtype=np.uint8)
    for axis, pair, distance in zip(axes, numbers.tolist(), found.distance, strict=False):
        shown = [pixels(case.shards, row) for row in pair]
        axis.imshow(np.hstack([shown[0], gap, shown[1]]))
        axis.axis("off")
        rows = case.rows.iloc[pair].to_dict("records")
        said = [f"{row['key']}: fold {row['fold']}, {'melanoma' if row['target'] == 1 else 'other'}" for row in rows]
        axis.set_title("\n".join([f"distance {distance:.3f}", *said]), fontsize=8, color=INK, loc="left")
    return Picture(
        name="near_duplicates",
        figure=figure,
        caption=f"The {count} closest pairs of pictures that lie in different folds. {_EYE}",
    )
