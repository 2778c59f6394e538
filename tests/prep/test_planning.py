"""The planning of large sets, beside the straightforward definition of each part, and what it leaves open."""

import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import StratifiedGroupKFold

from configs.prep import DuplicatePolicy, PrepConfig
from prep import stage
from prep.build import build
from prep.duplicates import DUPLICATE, VIEW, decide, group_names, links
from prep.files import OpenFiles
from prep.privacy import without_ids
from prep.stage import CHUNK, MOST_CHUNKS, chunk_size
from prep.stratified import stratified_group_folds


@pytest.mark.parametrize("seed", range(60))
def test_folds_are_those_of_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count, folds, kinds = int(rng.integers(100, 600)), int(rng.integers(2, 14)), int(rng.integers(1, 15))
    names = rng.integers(0, rng.integers(20, count), count) if seed % 2 else np.minimum(rng.zipf(1.5, count), 10**6)
    classes = np.unique(rng.choice(kinds, count, p=rng.dirichlet(np.ones(kinds))), return_inverse=True)[1]
    groups = np.unique(names, return_inverse=True)[1]
    wanted = np.empty(count, dtype=np.int64)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        splits = StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(classes, classes, groups)
        for number, (_, held_out) in enumerate(splits):
            wanted[held_out] = number
    np.testing.assert_array_equal(stratified_group_folds(classes, groups, folds=folds, seed=seed), wanted)


def decided_one_by_one(rows: pd.DataFrame, pairs: pd.DataFrame, policy: DuplicatePolicy) -> dict[str, tuple[str, ...]]:
    """The definition of `decide`: by key, the cluster, the decision and the key of the kept copy, "" for none."""
    usable = (rows["split"] == "train") & rows["left_out"].isna()
    linked = {(a, b) for a, b in links(rows, pairs).tolist() if usable[a] and usable[b]}
    linked |= {(b, a) for a, b in linked}
    found, open_rows = {}, {a for a, _ in linked}
    while open_rows:
        cluster = {min(open_rows)}
        while more := {b for a, b in linked if a in cluster} - cluster:
            cluster |= more
        open_rows -= cluster
        part = rows.loc[sorted(cluster)]
        name, kept = part["key"].min(), list[Any]()
        lesions = part["lesion"].where(part["source"] == 2019)
        views = lesions.map(lesions.value_counts(dropna=False)).gt(1) & part["lesion"].notna()

        def rank(row: Any, views: pd.Series = views) -> tuple[Any, ...]:
            return not views[row.Index], row.source == 0, -row.width * row.height, -row.file_bytes, row.key

        for row in sorted(part.itertuples(), key=rank):
            if policy != "drop" or part["target"].nunique() > 1:
                said = {"drop": "kept: labels disagree", "group": "kept in one fold", "keep": "kept, folds ignore it"}
                found[row.key] = (name, said[policy], "")
                continue
            same = [one.key for one in kept if row.sha256 == one.sha256 or (row.Index, one.Index) in linked]
            found[row.key] = (name, "dropped", same[0]) if same else (name, "kept: the best copy", "")
            kept += [] if same else [row]
    return found


def random_rows(seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Up to 60 rows of any mixture, and pairs of them."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(2, 60))

    def words(known: list[str], missing: float) -> pd.Series:
        return pd.Series(np.where(rng.random(count) < missing, None, rng.choice(known, count)), dtype="str")

    rows = pd.DataFrame({"key": pd.Series(rng.permutation([f"K{number:02d}" for number in range(count)]), dtype="str")})
    rows["split"], rows["left_out"] = words(["train"] * 5 + ["test"], 0), words(["a reason"], 0.9)
    rows["target"] = rng.integers(0, 1 + seed % 2, count).astype(np.int8)
    rows["source"] = rng.choice([2019, 2020, 0], count).astype(np.int16)
    rows["lesion"], rows["patient"] = words(["a", "b", "c"], 0.4), words(list("PQRSTUVW"), 0.4)
    rows["sha256"] = words([f"file {number}" for number in range(max(2, count // 3))], 0.2)
    for name in ("width", "height", "file_bytes"):
        rows[name] = rng.integers(1, 4, count)
    ends = np.unique(np.sort(rng.integers(0, count, (int(rng.integers(0, 2 * count)), 2)), axis=1), axis=0)
    pairs = pd.DataFrame(ends[ends[:, 0] < ends[:, 1]], columns=["row_1", "row_2"])
    return rows, pairs.assign(kind=rng.choice([DUPLICATE, DUPLICATE, VIEW], len(pairs)))


@pytest.mark.parametrize("policy", ["drop", "group", "keep"])
def test_duplicates_are_decided_as_one_by_one(policy: DuplicatePolicy) -> None:
    for seed in range(60):
        rows, pairs = random_rows(seed)
        verdict = decide(rows, pairs, policy)
        assert verdict.dtypes.eq("str").all()
        assert verdict.index.equals(rows.index)
        known = verdict.assign(key=rows["key"])[verdict["cluster"].notna()].fillna("").set_index("key")
        assert {str(key): tuple(row) for key, row in known.T.items()} == decided_one_by_one(rows, pairs, policy)


def test_groups_take_the_first_name_of_all_that_are_joined() -> None:
    for seed in range(60):
        rows, pairs = random_rows(seed)
        own = rows["patient"].fillna(rows["lesion"]).fillna(rows["key"])
        group, joined = own.tolist(), links(rows, pairs).tolist()
        for name in ("patient", "lesion"):
            joined += [
                (one, two) for numbers in rows.groupby(name).indices.values() for one in numbers for two in numbers
            ]
        for _ in rows.index:
            for one, two in joined:
                group[one] = group[two] = min(group[one], group[two])
        assert group_names(rows, links(rows, pairs)).tolist() == group


def test_numbers_sort_as_the_ids_do() -> None:
    ids = pd.Series(["b", None, "é", "B", "a_1", "b", "中", "a1", "Z", "z", "10", "9"], dtype="str")
    numbered = without_ids(pd.DataFrame(dict.fromkeys(("patient", "lesion", "group"), ids)))
    order = sorted(set(ids.dropna()))
    assert numbered["lesion"].fillna("").tolist() == [
        "" if pd.isna(one) else f"L{order.index(one) + 1:02d}" for one in ids
    ]


def test_each_file_is_opened_once_while_few_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [str(tmp_path / name) for name in "abc"]
    for path in paths:
        Path(path).write_bytes(path[-1:].encode() * 4 + b"0123456789")
    opened, system_open = list[str](), os.open

    def counted(path: str, flags: int) -> int:
        opened.append(path)
        return system_open(path, flags)

    monkeypatch.setattr(os, "open", counted)
    before, files = len(list(Path("/proc/self/fd").iterdir())), OpenFiles(most=2)
    for path in [*paths[:2] * 3, paths[2], paths[1], paths[0]]:
        assert files.read(path, 3, 3) == path[-1:].encode() + b"01"
    assert opened == [*paths, paths[0]]
    files.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_no_set_has_more_chunks_than_stay_open() -> None:
    assert chunk_size(58_457) == CHUNK
    assert all(-(-images // chunk_size(images)) <= MOST_CHUNKS for images in (1, 65_536, 65_537, 1_000_000, 10**7))


def test_a_set_does_not_depend_on_the_size_of_chunks(
    downloads: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    isic2020, isic2019 = map(str, downloads)
    sets = []
    for images in (128, 11):
        monkeypatch.setattr(stage, "CHUNK", images)
        build(PrepConfig(isic2020=isic2020, isic2019=isic2019, out=str(tmp_path / "set"), size=32, workers=1))
        sets.append({path.name: path.read_bytes() for path in (tmp_path / "set").iterdir()})
        shutil.rmtree(tmp_path / "set")
    assert sets[0] == sets[1]
