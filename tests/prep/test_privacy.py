"""Who is named in a shard set, and who may read it."""

import json
import stat
import tarfile
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from configs.prep import MergeConfig, PrepConfig
from prep.build import build
from prep.check import check_set
from prep.manifest import SAMPLES
from prep.master import write_master
from prep.privacy import without_ids

IDS = ["patient", "lesion", "group"]


@pytest.fixture(scope="module")
def kept_ids(downloads: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The set of all tests (fixture shard_folder), made with --keep-ids."""
    out = tmp_path_factory.mktemp("ids") / "set"
    isic2020, isic2019 = map(str, downloads)
    config = PrepConfig(isic2020=isic2020, isic2019=isic2019, out=str(out), size=64, folds=3, keep_ids=True)
    build(replace(config, workers=1, samples_per_shard=20))
    return out


def others_may_read(path: Path) -> bool:
    return bool(stat.S_IMODE(path.stat().st_mode) & (stat.S_IRWXG | stat.S_IRWXO))


def facts_of(folder: Path) -> list[dict[str, object]]:
    """KEY.json of every sample of the training shards."""
    found = []
    for path in sorted(folder.glob("train*.tar")):
        with tarfile.open(path) as tar:
            members = [tar.extractfile(member) for member in tar if member.name.endswith(".json")]
            found += [json.loads(member.read()) for member in members if member]
    return found


def test_by_default_no_file_of_a_set_has_an_id(shard_folder: Path) -> None:
    rows = pd.read_parquet(shard_folder / SAMPLES)
    assert rows["patient"].dropna().str.fullmatch(r"P\d+").all()
    assert rows["lesion"].dropna().str.fullmatch(r"L\d+").all()
    assert rows["group"].str.fullmatch(r"G\d+").all()
    written = rows.set_index("key")[IDS].to_dict("index")
    for facts in facts_of(shard_folder):
        assert {name: facts[name] for name in IDS} == {
            name: None if pd.isna(value) else value for name, value in written[facts["key"]].items()
        }
    for path in shard_folder.iterdir():
        assert b"IP_" not in path.read_bytes(), path.name
        assert b"HAM_0" not in path.read_bytes(), path.name
        assert others_may_read(path), path.name


def test_kept_ids_are_in_files_that_only_their_owner_may_read(kept_ids: Path) -> None:
    rows = pd.read_parquet(kept_ids / SAMPLES)
    assert rows["patient"].eq("IP_0000007").sum() == 2
    assert any(facts["patient"] == "IP_0000007" for facts in facts_of(kept_ids))
    with_ids = [path for path in kept_ids.iterdir() if path.name == SAMPLES or path.suffix == ".tar"]
    assert len(with_ids) > 8
    assert not any(map(others_may_read, with_ids))
    assert all(b"IP_" not in path.read_bytes() for path in kept_ids.iterdir() if path not in with_ids)
    assert check_set(kept_ids, quick=False, workers=1) == []


def test_numbers_keep_what_depends_on_groups_alone(shard_folder: Path, kept_ids: Path) -> None:
    """Samples, folds, places, bytes of the pictures; which rows share an id, and how the ids sort."""
    numbered, named = (pd.read_parquet(folder / SAMPLES) for folder in (shard_folder, kept_ids))
    pd.testing.assert_frame_equal(numbered.drop(columns=IDS), named.drop(columns=IDS))
    for name in IDS:
        codes = [rows[name].astype("category").cat.codes for rows in (numbered, named)]
        pd.testing.assert_series_equal(*codes)


def test_numbers_sort_as_the_ids_do_whatever_their_count() -> None:
    ids = pd.Series([f"id{number}" for number in range(12)] + [None], dtype="str")
    rows = without_ids(pd.DataFrame({"patient": ids, "lesion": ids, "group": ids}))
    assert rows["patient"][ids.dropna().sort_values().index].tolist() == [f"P{number:02d}" for number in range(1, 13)]
    assert rows["patient"].isna().tolist() == ids.isna().tolist()


def test_the_master_table_has_ids_and_is_its_owners(downloads: tuple[Path, Path], tmp_path: Path) -> None:
    isic2020, isic2019 = map(str, downloads)
    write_master(MergeConfig(isic2020=isic2020, isic2019=isic2019, out=str(tmp_path / "master.csv"), folds=3))
    assert "IP_0000007" in (tmp_path / "master.csv").read_text()
    assert not others_may_read(tmp_path / "master.csv")
