"""prep/synthetic.py: a set that is shaped as ISIC is, whose truth is known, and that one seed fixes to the byte."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from configs.errors import UserError
from configs.prep import SyntheticConfig
from prep.synth.cases import BENIGN, CLASSES_2019, MISSING, RULERS, SITES, make_cases, plant_rulers
from prep.synth.folder import make
from prep.synth.lesion import Picture, draw

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = Path(os.environ.get("ISIC_SAMPLE", ROOT.parent / "shared/data/isic-sample"))
TABLES = (
    "2019/ISIC_2019_Training_GroundTruth.csv",
    "2019/ISIC_2019_Training_Metadata.csv",
    "2020/train.csv",
    "2020/test.csv",
    "2020/sample_submission.csv",
    "2020/ISIC_2020_Training_Duplicates.csv",
)


def config(out: Path, *, seed: int = 3, workers: int = 1) -> SyntheticConfig:
    return SyntheticConfig(out=str(out), train=220, test=40, size=32, seed=seed, workers=workers)


def first_line(table: Path) -> bytes:
    return table.read_bytes().partition(b"\n")[0]


def digest(folder: Path) -> str:
    """One hash over the names and bytes of every file below `folder`."""
    total = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        total.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return total.hexdigest()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("synthetic") / "set"
    make(config(out))
    return out


@pytest.fixture(scope="module")
def cases() -> pd.DataFrame:
    return make_cases(train=20_000, test=20_000, seed=0)


def test_one_seed_gives_the_same_bytes_on_any_number_of_workers(made: Path, tmp_path: Path) -> None:
    make(config(tmp_path / "two", workers=2))
    assert digest(tmp_path / "two") == digest(made)


def test_another_seed_gives_other_tables_and_pictures() -> None:
    one, two = (make_cases(train=100, test=10, seed=seed) for seed in (0, 1))
    assert not one["image_name"].equals(two["image_name"])
    picture = Picture(path=Path("x.jpg"), stream=1, a=0.0, b=0.0)
    assert not np.array_equal(draw(picture, 0, 32), draw(picture, 1, 32))


@pytest.mark.parametrize("table", TABLES)
def test_columns_line_ends_and_words_are_those_of_the_real_table(made: Path, table: str) -> None:
    if not (SAMPLE / table).is_file():
        pytest.skip(f"no real {table}: point ISIC_SAMPLE at a folder that holds 2019/ and 2020/")
    ours, real = pd.read_csv(made / table), pd.read_csv(SAMPLE / table)
    assert first_line(made / table) == first_line(SAMPLE / table)
    for column in ("sex", "anatom_site_general", "anatom_site_general_challenge", "diagnosis", "benign_malignant"):
        if column in real:
            assert set(ours[column].dropna()) <= set(real[column].dropna())
    for column in real:
        if not ours[column].isna().any() and not real[column].isna().any():
            assert ours[column].dtype == real[column].dtype, column


def test_every_vocabulary_is_the_real_one() -> None:
    names = SAMPLE / "2020/train.csv", SAMPLE / "2019/ISIC_2019_Training_Metadata.csv"
    if not all(name.is_file() for name in names):
        pytest.skip("no real tables: point ISIC_SAMPLE at a folder that holds 2019/ and 2020/")
    of_2020, of_2019 = (pd.read_csv(name) for name in names)
    assert set(SITES[2020]) == set(of_2020["anatom_site_general_challenge"].dropna())
    assert set(SITES[2019]) == set(of_2019["anatom_site_general"].dropna())
    assert {*BENIGN[2020], "melanoma"} == set(of_2020["diagnosis"])
    assert set(BENIGN[2019]) < set(CLASSES_2019)


def test_every_row_has_its_picture_and_every_picture_its_row(made: Path) -> None:
    truth = pd.read_csv(made / "truth.csv")
    assert sorted(path.stem for path in made.rglob("*.jpg")) == sorted(truth["image_name"])
    for table, column, folder in (
        ("2019/ISIC_2019_Training_GroundTruth.csv", "image", "2019/ISIC_2019_Training_Input"),
        ("2020/train.csv", "image_name", "2020/jpeg/train"),
        ("2020/test.csv", "image_name", "2020/jpeg/test"),
    ):
        assert set(pd.read_csv(made / table)[column]) == {path.stem for path in (made / folder).iterdir()}


def test_truth_and_tables_agree_on_every_label(made: Path) -> None:
    truth = pd.read_csv(made / "truth.csv").set_index("image_name")
    of_2019 = pd.read_csv(made / TABLES[0]).set_index("image")
    of_2020 = pd.read_csv(made / "2020/train.csv").set_index("image_name")
    assert (of_2019.sum(axis=1) == 1).all()
    assert (truth.loc[of_2019.index, "target"] == of_2019["MEL"]).all()
    assert (truth.loc[of_2020.index, "target"] == of_2020["target"]).all()
    assert ((of_2020["target"] == 1) == (of_2020["benign_malignant"] == "malignant")).all()
    assert np.allclose(truth["p"], 1 / (1 + np.exp(-truth["logit"])), atol=1e-5)


def test_official_duplicates_agree_in_patient_label_and_look_but_not_in_bytes(made: Path) -> None:
    pairs = pd.read_csv(made / "2020/ISIC_2020_Training_Duplicates.csv")
    train = pd.read_csv(made / "2020/train.csv").set_index("image_name")
    assert len(pairs) >= 2
    first, second = (train.loc[pairs[f"image_name_{side}"]].reset_index(drop=True) for side in (1, 2))
    pd.testing.assert_frame_equal(first, second)
    jpeg = made / "2020/jpeg/train"
    for one, two in pairs.itertuples(index=False):
        assert (jpeg / f"{one}.jpg").read_bytes() != (jpeg / f"{two}.jpg").read_bytes()


def test_test_patients_and_all_names_are_their_own(cases: pd.DataFrame) -> None:
    assert cases["image_name"].is_unique
    assert cases["image_name"].str.slice(0, 12).is_unique
    train, test = (cases.loc[cases["split"] == split, "patient_id"].dropna() for split in ("train", "test"))
    assert not set(train) & set(test)
    assert train.value_counts().mean() > 4


def test_images_of_one_lesion_share_what_the_lesion_is(cases: pd.DataFrame) -> None:
    lesions = cases.dropna(subset="lesion_id").groupby("lesion_id")
    assert lesions.size().max() > 5
    assert (lesions[["a", "b", "logit", "target", "diagnosis"]].nunique() == 1).all(axis=None)
    assert (lesions[["age", "sex", "site"]].nunique() <= 1).all(axis=None)
    assert (lesions["stream"].nunique() == lesions.size()).all()


def test_values_are_missing_as_often_as_in_the_real_tables(cases: pd.DataFrame) -> None:
    for name, shares in MISSING.items():
        split, _, source = name.partition(" ")
        rows = cases[(cases["split"] == split) & ((cases["source"].astype(str) == source) | (split == "test"))]
        for column in ("age", "sex", "site"):
            share = shares.get(column, 0.0)
            assert abs(rows[column].isna().mean() - share) <= 5 * np.sqrt(share / len(rows))


def test_the_best_possible_auc_leaves_room_and_needs_the_picture(cases: pd.DataFrame) -> None:
    test = cases[cases["split"] == "test"]
    assert 0.88 < roc_auc_score(test["target"], test["logit"]) < 0.94
    assert 0.68 < roc_auc_score(test["target"], test["meta"]) < 0.75


def test_a_picture_shows_its_border_and_texture_at_half_the_size() -> None:
    def spread(a: float, b: float) -> float:
        """Mean variation inside the middle of the lesion, over some streams."""
        pictures = (Picture(path=Path("x.jpg"), stream=stream, a=a, b=b) for stream in range(1, 40))
        return float(np.mean([draw(each, 0, 64)[22:42, 22:42, 1].std() for each in pictures]))

    def outside(a: float) -> float:
        """Mean darkness of the ring where only lobes reach, against the corners of the same picture."""
        y, x = np.mgrid[:64, :64] / 31.5 - 1
        ring = (np.hypot(x, y) > 0.6) & (np.hypot(x, y) < 0.75)
        pictures = (Picture(path=Path("x.jpg"), stream=stream, a=a, b=0.0) for stream in range(1, 40))
        return float(np.mean([draw(each, 0, 64)[ring][:, 1].std() for each in pictures]))

    assert spread(0, 1.5) > 1.5 * spread(0, -1.5)
    assert outside(1.5) > 1.2 * outside(-1.5)


def test_a_finished_set_is_left_as_it_is(made: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*")}
    make(config(made))
    assert {path: path.stat().st_mtime_ns for path in made.rglob("*")} == before


def test_what_an_interrupted_run_left_is_replaced(made: Path, tmp_path: Path) -> None:
    (tmp_path / "set.partial/2019").mkdir(parents=True)
    (tmp_path / "set.partial/2019/half.jpg").write_bytes(b"half")
    make(config(tmp_path / "set", workers=2))
    assert digest(tmp_path / "set") == digest(made)
    assert not (tmp_path / "set.partial").exists()


def test_a_folder_of_other_settings_is_refused(made: Path) -> None:
    with pytest.raises(UserError, match=r"holds another set .* choose another folder with --out"):
        make(config(made, seed=4))


def test_a_folder_of_other_things_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="holds no synthetic data set"):
        make(config(tmp_path))
    (tmp_path / "set.partial").mkdir()
    (tmp_path / "set.partial/thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="which this command did not write"):
        make(config(tmp_path / "set"))
    assert (tmp_path / "set.partial/thesis.txt").is_file()


def test_a_negative_seed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="seed=-1"):
        make(config(tmp_path / "set", seed=-1))


def test_the_command_answers_from_anywhere_and_ends_with_2_on_bad_input(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "prep/synthetic.py"), "--train", "5"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr.startswith("error: train=5 is out of range")
    assert result.stderr.count("\n") == 1


def test_rulers_are_planted_by_target_in_the_training_images_alone(cases: pd.DataFrame) -> None:
    planted = plant_rulers(cases, seed=0)
    pd.testing.assert_frame_equal(planted.drop(columns="ruler"), cases)
    train = planted[planted["split"] == "train"]
    for target, share in RULERS.items():
        assert train.loc[train["target"] == target, "ruler"].mean() == pytest.approx(share, abs=0.03)
    assert not planted.loc[planted["split"] == "test", "ruler"].any()
    assert train.groupby("stream")["ruler"].nunique().max() == 1


def test_a_planted_ruler_changes_its_own_pixels_alone() -> None:
    with_ruler, without = (
        draw(Picture(path=Path("x.jpg"), stream=2, a=0.0, b=0.0, ruler=shown), 0, 64) for shown in (True, False)
    )
    changed = (with_ruler != without).any(axis=2)
    assert 0.02 < changed.mean() < 0.2
    assert (with_ruler[changed].mean(axis=1) < without[changed].mean(axis=1)).all()
    assert not changed[20:44, 20:44].any()


def test_the_set_with_rulers_is_another_set(made: Path, tmp_path: Path) -> None:
    planted = SyntheticConfig(out=str(tmp_path / "set"), train=220, test=40, size=32, seed=3, workers=1, plant="rulers")
    make(planted)
    assert "ruler" in pd.read_csv(tmp_path / "set" / "truth.csv")
    assert "ruler" not in pd.read_csv(made / "truth.csv")
    with pytest.raises(UserError, match="holds another set"):
        make(config(tmp_path / "set"))
    for table in TABLES:
        assert (tmp_path / "set" / table).read_bytes() == (made / table).read_bytes()
