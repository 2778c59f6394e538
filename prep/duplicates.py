"""Duplicates: which images show the same picture, which copy is kept, and which rows must share a fold for it."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from configs.prep import DuplicatePolicy
from prep.files import OpenFiles
from prep.fingerprint import NO_PAIRS, Pairs, find_pairs
from prep.images import THUMB, Pixels
from prep.stage import chunk_stem

DUPLICATE = "duplicate"
VIEW = "view of one lesion"
_KEPT = {"drop": "kept: labels disagree", "group": "kept in one fold", "keep": "kept, folds ignore it"}
_PIXELS = THUMB * THUMB
Rows = npt.NDArray[np.int64]


def find_duplicates(rows: pd.DataFrame, official: pd.DataFrame, stage: Path | None) -> pd.DataFrame:
    """All pairs of rows that show the same picture (see `list_pairs`).

    `stage` is the folder of the chunks; with None no image was read, and the pairs are those of the `official` list.
    """
    if stage is None:
        return list_pairs(rows, official, np.empty((0, 2), dtype=np.int64), NO_PAIRS)
    same = same_files(rows["sha256"])
    # One of several equal files represents all, so that a thousand copies do not make half a million pairs.
    first = np.ones(len(rows), dtype=bool)
    first[same[:, 1]] = False
    shown = np.flatnonzero(rows["sha256"].notna() & ~rows["flat"] & first)
    with closing(OpenFiles()) as files:
        thumbs = _staged_thumbs(rows, stage, files)
        alike = find_pairs(rows["hash"].to_numpy(np.uint64)[shown], lambda numbers: thumbs(shown[numbers]))
    return list_pairs(rows, official, same, replace(alike, rows=shown[alike.rows]))


def _staged_thumbs(rows: pd.DataFrame, stage: Path, files: OpenFiles) -> Callable[[Rows], Pixels]:
    """A function from row numbers, int64 [n], to the thumbnails of these rows, uint8 [n, 32, 32]."""
    chunk, place = rows["chunk"].to_numpy(), rows.groupby("chunk").cumcount().to_numpy()

    def thumb(row: int) -> bytes:
        return files.read(f"{chunk_stem(stage, chunk[row])}.thumbs", int(place[row]) * _PIXELS, _PIXELS)

    def thumbs(numbers: Rows) -> Pixels:
        pixels = b"".join(thumb(row) for row in numbers)
        return np.frombuffer(pixels, dtype=np.uint8).reshape(-1, THUMB, THUMB)

    return thumbs


def same_files(sha256: pd.Series) -> Rows:
    """Row numbers, int64 [P, 2], of each file and the first one of the same bytes; missing hashes match nothing."""
    known = pd.Series(np.flatnonzero(sha256.notna()))
    first = known.groupby(sha256.iloc[known].to_numpy()).transform("min")
    return np.stack([first, known], axis=1)[first != known]


def list_pairs(rows: pd.DataFrame, official: pd.DataFrame, same: Rows, alike: Pairs) -> pd.DataFrame:
    """Every pair from the official list, equal bytes or similar pictures, once each.

    Columns: row_1, row_2 (row numbers), kind, official, correlation, detail (NaN where the pictures were not compared).
    Two images of one 2019 lesion are views, which share a group but are not duplicates, unless the files are equal.
    """
    numbers = pd.Series(np.arange(len(rows)), index=rows["key"]).groupby(level=0).first()
    named = np.stack([official[name].map(numbers).to_numpy(np.float64) for name in ("image_name_1", "image_name_2")], 1)
    named = named[~np.isnan(named).any(axis=1)].astype(np.int64)
    found = pd.DataFrame(np.sort(np.concatenate([alike.rows, same, named]), axis=1), columns=["row_1", "row_2"])
    kinds = np.repeat(["alike", "equal", "official"], [len(alike.rows), len(same), len(named)])
    found["official"], found["equal"] = kinds == "official", kinds == "equal"
    for name, values in (("correlation", alike.correlation), ("detail", alike.detail)):
        found[name] = np.concatenate([values, np.ones(len(same)), np.full(len(named), np.nan)])
    how = {"official": "any", "equal": "any", "correlation": "max", "detail": "max"}
    pairs = found.groupby(["row_1", "row_2"], as_index=False).agg(how)
    lesion, source = rows["lesion"].to_numpy(dtype=object), rows["source"].to_numpy()
    left, right = pairs["row_1"], pairs["row_2"]
    views = (lesion[left] == lesion[right]) & (source[left] == 2019) & ~pairs["equal"] & ~pairs["official"]
    pairs["kind"] = np.where(views, VIEW, DUPLICATE)
    return pairs.drop(columns="equal")


def decide(rows: pd.DataFrame, pairs: pd.DataFrame, policy: DuplicatePolicy) -> pd.DataFrame:
    """The decision about each row: columns cluster, decision and copy_of (str, missing for rows without duplicates).

    A cluster is a connected set of usable duplicate training rows, named after its smallest key. Under `drop`, if all
    labels of a cluster agree, a row is dropped where a kept one shows the same picture; others are never dropped.
    """
    usable = ((rows["split"] == "train") & rows["left_out"].isna()).to_numpy()
    edges = links(rows, pairs)
    edges = edges[usable[edges].all(axis=1)]
    _, component = connected_components(_graph(edges, len(rows)), directed=False)
    members = np.unique(edges)
    inside = rows.iloc[members].assign(component=component[members])
    clusters = inside.groupby("component")
    verdict = pd.DataFrame({"cluster": _first_names(inside["key"], component[members])}, dtype="str")
    verdict["decision"], verdict["copy_of"] = _KEPT[policy], pd.Series(np.nan, inside.index, dtype="str")
    agree = (clusters["target"].transform("nunique") == 1).to_numpy()
    if policy == "drop" and agree.any():
        kept_one = _kept_ones(inside, edges, members)
        dropped = kept_one >= 0
        verdict.loc[agree, "decision"] = np.where(dropped, "dropped", "kept: the best copy")[agree]
        verdict.loc[agree & dropped, "copy_of"] = inside["key"].to_numpy()[kept_one[agree & dropped]]
    return verdict.reindex(rows.index)


def _kept_ones(inside: pd.DataFrame, edges: Rows, members: Rows) -> Rows:
    """For each of the `members` (row numbers, int64 [N], sorted; `inside` are these rows) the place among them of the
    best kept one that shows its picture, int64 [N], or -1 where it is itself kept.

    The best come first: views of one 2019 lesion, so that a copy of both does not displace them; then the challenge's
    images; then the larger original. `edges` are the pairs, row numbers [P, 2]; files of equal bytes are pairs too.
    """
    lesion = inside["lesion"].where(inside["source"] == 2019)
    views = pd.DataFrame({"component": inside["component"], "lesion": lesion}).duplicated(keep=False)
    views &= inside["lesion"].notna()
    order = pd.DataFrame(
        {
            "other": ~views,
            "outside": inside["source"] == 0,
            "area": inside["width"].astype(np.int64) * inside["height"],
            "file_bytes": inside["file_bytes"],
            "key": inside["key"],
            "place": np.arange(len(inside)),
        }
    ).sort_values(["other", "outside", "area", "file_bytes", "key"], ascending=[True, True, False, False, True])
    place = order["place"].to_numpy()
    rank = np.argsort(place)
    ends = np.unique(np.sort(rank[np.searchsorted(members, edges)], axis=1)[:, ::-1], axis=0)  # the later one first
    better, bounds = ends[:, 1].tolist(), np.searchsorted(ends[:, 0], np.arange(len(place) + 1)).tolist()
    files = inside.groupby(["component", "sha256"], dropna=True).ngroup().to_numpy()[place].tolist()  # -1: unknown
    of, kept_file = [-1] * len(place), dict[int, int]()
    for one, file in enumerate(files):
        shown = [other for other in better[bounds[one] : bounds[one + 1]] if of[other] < 0]
        if file in kept_file:
            shown.append(kept_file[file])
        if shown:
            of[one] = min(shown)
        elif file >= 0:
            kept_file[file] = one
    found = np.array(of)
    return np.where(found < 0, -1, place[found])[rank]


def links(rows: pd.DataFrame, pairs: pd.DataFrame) -> Rows:
    """Row numbers, int64 [P, 2], of the duplicate pairs inside the training rows."""
    ends = pairs.loc[pairs["kind"] == DUPLICATE, ["row_1", "row_2"]].to_numpy(dtype=np.int64)
    train = (rows["split"] == "train").to_numpy()
    return np.asarray(ends[train[ends].all(axis=1)])


def group_names(rows: pd.DataFrame, links: Rows) -> pd.Series:
    """Name the connected component of each row (str, aligned with `rows`).

    Rows are joined by patient, by lesion and by `links` (row numbers, int64 [P, 2]); a component takes the first, in
    sorting order, of its members' names, a member's being its patient, else its lesion, else its key.
    """
    edges, nodes = [links], len(rows)
    for column in ("patient", "lesion"):
        known = np.flatnonzero(rows[column].notna())
        place, names = pd.factorize(rows[column].iloc[known])
        edges.append(np.stack([known, nodes + place], axis=1))
        nodes += len(names)
    _, component = connected_components(_graph(np.concatenate(edges), nodes), directed=False)
    return _first_names(rows["patient"].fillna(rows["lesion"]).fillna(rows["key"]), component[: len(rows)])


def _first_names(names: pd.Series, component: npt.NDArray[np.integer[Any]]) -> pd.Series:
    """The first, in sorting order, of the names of each one's component (str, aligned with `names`)."""
    place, known = pd.factorize(names, sort=True)
    first = pd.Series(place).groupby(component).transform("min")
    return pd.Series(known.take(first.to_numpy()), index=names.index, dtype="str")


def _graph(edges: Rows, nodes: int) -> coo_array:
    return coo_array((np.ones(len(edges), dtype=np.int8), (edges[:, 0], edges[:, 1])), shape=(nodes, nodes))
