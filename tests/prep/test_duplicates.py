import io
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import picture
from PIL import Image

from configs.errors import UserError
from configs.prep import PrepConfig
from loaders.shards import ShardSet
from prep.build import build
from prep.check import check_set
from prep.duplicates import same_files
from prep.fingerprint import CORRELATION, DETAIL, are_flat, find_pairs, perceptual_hashes
from prep.images import Pixels, store_image
from prep.manifest import read_manifest

Picture = Image.Image
COPIES: dict[str, Callable[[Picture], tuple[Picture, int]]] = {
    "recompressed at quality 60": lambda image: (image, 60),
    "half as large": lambda image: (image.resize((image.width // 2, image.height // 2)), 90),
    "twice as large": lambda image: (image.resize((image.width * 2, image.height * 2), Image.Resampling.BICUBIC), 90),
    "squashed to 96 pixels at quality 75": lambda image: (image.resize((96, 96), Image.Resampling.LANCZOS), 75),
    "darker": lambda image: (image.point(lambda value: value * 0.8), 95),
}


def thumb_of(image: Picture, quality: int = 95) -> Pixels:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return store_image(file.getvalue(), size=64, fit="squash", quality=96, subsampling="4:2:0").thumb


def pairs_of(thumbs: Pixels) -> list[list[int]]:
    return find_pairs(perceptual_hashes(thumbs), lambda rows: thumbs[rows]).rows.tolist()


@pytest.fixture(scope="module")
def real_pictures(isic_sample: Path) -> list[Picture]:
    paths = sorted((isic_sample / "2019" / "ISIC_2019_Training_Input").iterdir())[::17]
    return [Image.open(path).convert("RGB") for path in paths]


@pytest.mark.parametrize("copy", COPIES)
def test_copies_of_real_pictures_are_found_and_nothing_else(real_pictures: list[Picture], copy: str) -> None:
    originals = [thumb_of(image) for image in real_pictures]
    copies = [thumb_of(*COPIES[copy](image)) for image in real_pictures]
    count = len(originals)
    found = pairs_of(np.stack([*originals, *copies]))
    assert len(originals) == 200
    between = [pair for pair in found if pair[1] - pair[0] == count]
    assert len(between) >= 0.99 * count, "copies that were missed"
    views = [pair for pair in found if pair[1] - pair[0] != count]
    assert len(views) <= 4 * 3, "pairs of different pictures: three pairs of views in this sample, each four times"


def test_the_search_misses_no_pair_that_all_pairs_would_give(isic_sample: Path) -> None:
    paths = sorted((isic_sample / "2019" / "ISIC_2019_Training_Input").iterdir())[-2000:]
    thumbs = np.stack([thumb_of(Image.open(path).convert("RGB")) for path in paths])
    flat = thumbs.reshape(len(thumbs), -1).astype(np.float64)
    flat -= flat.mean(axis=1, keepdims=True)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    alike = np.argwhere(np.triu(flat @ flat.T >= CORRELATION, 1))
    # The decision on each of them, without the hash: two pictures at a time, whose hashes are made equal.
    wanted = [
        pair.tolist()
        for pair in alike
        if len(find_pairs(np.zeros(2, np.uint64), lambda rows, pair=pair: thumbs[pair[rows]]).rows)  # type: ignore[misc]
    ]
    assert len(wanted) >= 10
    assert pairs_of(thumbs) == wanted


def test_flat_pictures_are_not_known_again() -> None:
    flat, other = np.full((32, 32), 200, dtype=np.uint8), thumb_of(Image.fromarray(picture(0, 64, 64)))
    assert are_flat(np.stack([flat, other])).tolist() == [True, False]


def test_no_pictures_make_no_pairs() -> None:
    assert pairs_of(np.empty((0, 32, 32), dtype=np.uint8)) == []
    assert 0 < DETAIL < CORRELATION < 1


def test_files_of_equal_bytes_are_paired_with_the_first_of_them() -> None:
    hashes = pd.Series(["b", None, "a", "b", None, "b", "a"], dtype="str")
    assert same_files(hashes).tolist() == [[0, 3], [0, 5], [2, 6]]


# Builds: the fixture's downloads with copies put in.


@pytest.fixture
def config(downloads: tuple[Path, Path], tmp_path: Path) -> PrepConfig:
    folders = []
    for source in downloads:
        shutil.copytree(source, tmp_path / source.name)
        folders.append(str(tmp_path / source.name))
    isic2020, isic2019 = folders
    return PrepConfig(
        isic2020=isic2020,
        isic2019=isic2019,
        out=str(tmp_path / "set"),
        size=64,
        folds=3,
        workers=1,
        samples_per_shard=20,
    )


def path_of(config: PrepConfig, key: str) -> Path:
    return next(path for folder in (config.isic2020, config.isic2019) for path in Path(str(folder)).rglob(f"{key}.jpg"))


def copy_picture(config: PrepConfig, original: str, onto: str, scale: float = 1.0, quality: int = 80) -> None:
    with Image.open(path_of(config, original)) as image:
        size = (round(image.width * scale), round(image.height * scale))
        image.resize(size, Image.Resampling.LANCZOS).save(path_of(config, onto), quality=quality)


def rows_of(config: PrepConfig) -> pd.DataFrame:
    return pd.read_parquet(Path(config.out) / "samples.parquet").set_index("key")


def test_the_best_copy_stays_where_the_labels_agree(config: PrepConfig) -> None:
    # 2020's patients 1 and 2 are benign, and so is 2019's lesion 1; the copies cross patients and years.
    copy_picture(config, "ISIC_0000002", "ISIC_0000005", scale=2)
    copy_picture(config, "ISIC_0000002", "ISIC_1000004", scale=1.5)
    said = build(config)
    rows = rows_of(config)
    cluster = ["ISIC_0000002", "ISIC_0000005", "ISIC_1000004"]
    # The official pair of the fixture, ISIC_0000000 with ISIC_0000002, disagrees in its labels and joins them.
    assert set(rows.loc[[*cluster, "ISIC_0000000"], "duplicate_cluster"]) == {"ISIC_0000000"}
    assert set(rows.loc[cluster, "duplicate_decision"]) == {"kept: labels disagree"}
    assert "4 kept: labels disagree" in said
    Path(str(config.isic2020), "ISIC_2020_Training_Duplicates.csv").unlink()
    config = replace(config, out=config.out + "-2", keep_ids=True)
    build(config)
    rows = rows_of(config)
    assert rows.loc[cluster, "left_out"].fillna("").tolist() == [of_it := "duplicate of ISIC_0000005", "", of_it]
    assert rows.loc[cluster, "duplicate_decision"].tolist() == ["dropped", "kept: the best copy", "dropped"]
    assert set(rows.loc[cluster, "duplicate_cluster"]) == {"ISIC_0000002"}
    assert rows["left_out"].notna().sum() == 2
    # What the dropped ones join stays together: both patients and the lesion.
    joined = rows[rows["patient"].isin(["IP_0000001", "IP_0000002"]) | rows["lesion"].eq("HAM_0000001")]
    assert joined["group"].nunique() == 1
    assert joined["fold"].nunique() == 1


@pytest.mark.parametrize("policy", ["group", "keep"])
def test_group_and_keep_leave_every_copy_in(config: PrepConfig, policy: str) -> None:
    copy_picture(config, "ISIC_0000002", "ISIC_0000005")
    config = replace(config, duplicates=policy)
    said = build(config)
    rows = rows_of(config)
    assert rows["left_out"].notna().sum() == 0
    if policy == "group":
        assert rows.loc[["ISIC_0000002", "ISIC_0000005"], "fold"].nunique() == 1
        assert read_manifest(Path(config.out)).unsafe is None
    else:
        assert str(read_manifest(Path(config.out)).unsafe).startswith("made with --duplicates keep")
        assert "WARNING: made with --duplicates keep" in said
    assert check_set(Path(config.out), quick=False, workers=1) == []


def test_views_of_one_2019_lesion_are_grouped_and_never_dropped(config: PrepConfig) -> None:
    copy_picture(config, "ISIC_1000003", "ISIC_1000004")
    same = path_of(config, "ISIC_1000009").read_bytes()
    path_of(config, "ISIC_1000011").write_bytes(same)
    build(config)
    rows = rows_of(config)
    assert rows.loc["ISIC_1000003", "lesion"] == rows.loc["ISIC_1000004", "lesion"]
    assert rows.loc[["ISIC_1000003", "ISIC_1000004"], "left_out"].isna().all()
    assert rows.loc[["ISIC_1000009", "ISIC_1000011"], "left_out"].notna().sum() == 1, "equal files are no two views"
    pairs = pd.read_csv(Path(config.out) / "duplicates.csv").set_index("image_name_1")
    assert pairs.loc["ISIC_1000003", "kind"] == "view of one lesion"
    assert pairs.loc["ISIC_1000009", "kind"] == "duplicate"


def test_views_stay_also_where_a_third_picture_is_a_copy_of_both(config: PrepConfig) -> None:
    copy_picture(config, "ISIC_1000003", "ISIC_1000004")
    copy_picture(config, "ISIC_1000003", "ISIC_0000011", scale=3)
    build(config)
    rows = rows_of(config)
    trio = ["ISIC_0000011", "ISIC_1000003", "ISIC_1000004"]
    assert rows.loc[trio, "left_out"].fillna("").tolist() == ["duplicate of ISIC_1000003", "", ""]
    assert rows.loc[trio, "fold"].nunique() == 1


def test_a_picture_that_is_not_there_moves_no_folds_but_its_own(config: PrepConfig) -> None:
    copy_picture(config, "ISIC_0000041", "ISIC_1000021")
    build(config)
    whole = rows_of(config)
    path_of(config, "ISIC_1000021").unlink()
    other = replace(config, missing="skip", out=config.out + "-other")
    build(other)
    moved = whole.index[whole["fold"] != rows_of(other)["fold"][whole.index]]
    joined = whole.loc["ISIC_0000041", "group"]
    assert whole.loc["ISIC_1000021", "group"] == joined
    assert set(whole.loc[moved, "group"]) <= {joined}


def test_a_test_image_is_listed_beside_its_copy_and_never_dropped(config: PrepConfig) -> None:
    copy_picture(config, "ISIC_5000003", "ISIC_0000011")
    said = build(config)
    rows = rows_of(config)
    assert rows["left_out"].isna().all()
    assert "1 pairs of a training and a test image" in said
    pairs = pd.read_csv(Path(config.out) / "duplicates.csv").set_index("image_name_1")
    assert pairs.loc["ISIC_0000011", ["split_1", "image_name_2", "split_2"]].tolist() == [
        "train",
        "ISIC_5000003",
        "test",
    ]
    assert pairs.loc["ISIC_0000011", "correlation"] > CORRELATION


def test_clusters_and_folds_do_not_depend_on_the_stored_size(config: PrepConfig) -> None:
    copy_picture(config, "ISIC_0000002", "ISIC_0000005", scale=0.7, quality=60)
    build(config)
    large = replace(config, size=300, out=config.out + "-large")
    build(large)
    columns = ["fold", "group", "duplicate_cluster", "duplicate_decision", "left_out"]
    pd.testing.assert_frame_equal(rows_of(config)[columns], rows_of(large)[columns])
    assert read_manifest(Path(config.out)).labels_sha256 == read_manifest(Path(large.out)).labels_sha256


def test_an_outside_assignment_that_leaks_fails_and_makes_no_set(config: PrepConfig, tmp_path: Path) -> None:
    build(config)
    rows = rows_of(config).query("split == 'train'")
    rows["fold"].rename_axis("image_name").to_csv(tmp_path / "folds.csv")
    ours = replace(config, folds_file=str(tmp_path / "folds.csv"), seed=3, out=config.out + "-ours")
    build(ours)
    assert (rows_of(ours)["fold"][rows.index] == rows["fold"]).all()
    spread = rows["fold"].where(rows.index != "ISIC_0000010", (rows["fold"] + 1) % 3)
    spread.rename_axis("image_name").to_csv(tmp_path / "folds.csv")
    theirs = replace(ours, out=config.out + "-theirs")
    with pytest.raises(
        UserError, match=r"1 groups span several folds, first IP_0000005 \(ISIC_0000010, ISIC_0000011\)"
    ):
        build(theirs)
    assert not Path(theirs.out).exists()


def test_an_outside_assignment_and_a_scheme_of_ours_contradict_each_other() -> None:
    with pytest.raises(UserError, match="--folds-file brings its own folds"):
        PrepConfig(isic2020=".", folds_file="folds.csv", fold_scheme="random")


def test_random_folds_are_stamped_unsafe(config: PrepConfig) -> None:
    build(replace(config, fold_scheme="random"))
    assert str(read_manifest(Path(config.out)).unsafe).startswith("made with --fold-scheme random: ")


def write_extra(config: PrepConfig, folder: Path) -> Path:
    """Five outside images: two of one group, one of a name of ours, one with a picture of ours, one without a table."""
    (folder / "photos").mkdir(parents=True)
    for number, name in enumerate(("a", "b", "ISIC_0000001", "d", "e")):
        Image.fromarray(picture(9_000 + number, 70, 70)).save(folder / "photos" / f"{name}.png")
    with Image.open(path_of(config, "ISIC_0000021")) as image:
        image.resize((120, 90), Image.Resampling.LANCZOS).save(folder / "photos" / "d.png")
    csv = folder / "extra.csv"
    lines = ["image,target,group,diagnosis,sex,age,site", "photos/a.png,1,g1,melanoma,male,50,torso"]
    lines += ["photos/b.png,0,g1,nevus,male,50,torso", "ISIC_0000001,0,g2,nevus,female,30,"]
    lines += ["photos/d.png,0,g3,nevus,female,30,head/neck", "photos/e.png,1,,melanoma,,,"]
    csv.write_text("\n".join(lines) + "\n")
    return csv


def test_an_outside_set_is_a_split_of_its_own_and_its_overlap_is_said(config: PrepConfig, tmp_path: Path) -> None:
    config = replace(config, extra=str(write_extra(config, tmp_path / "clinic")))
    said = build(config)
    assert "outside set: 5 rows; 1 have the name of an image of the downloads (left out), 1 show a picture of" in said
    rows = pd.read_parquet(Path(config.out) / "samples.parquet")
    extra = rows[rows["source"] == 0].set_index("key")
    assert set(extra["split"]) == {"extra"}
    assert set(extra["fold"]) == {-1}
    assert extra["left_out"].notna().sum() == 1
    assert extra.loc["e", ["sex_missing", "age_missing", "site_missing"]].all()
    assert extra.loc["a", "n_images"] == 2
    shards = ShardSet(Path(config.out))
    assert sorted(shards.key.take(shards.split_rows("extra")).to_pylist()) == ["a", "b", "d", "e"]
    assert len(shards.split_rows("test")) == 9
    assert check_set(Path(config.out), quick=False, workers=1) == []


def test_ours_stays_where_an_outside_copy_of_it_is_trained_on(config: PrepConfig, tmp_path: Path) -> None:
    csv = write_extra(config, tmp_path / "clinic")
    with Image.open(path_of(config, "ISIC_0000021")) as image:
        image.resize((800, 600), Image.Resampling.LANCZOS).save(tmp_path / "clinic" / "photos" / "d.png")
    build(replace(config, extra=str(csv), extra_role="train"))
    assert rows_of(config).loc["d", "left_out"] == "duplicate of ISIC_0000021"


def test_an_outside_image_whose_name_breaks_an_index_is_refused(config: PrepConfig, tmp_path: Path) -> None:
    csv = write_extra(config, tmp_path / "clinic")
    csv.write_text(csv.read_text().replace("photos/b.png", "photos/my mole.png"))
    with pytest.raises(
        UserError, match=r"extra\.csv line 3, column image: 'photos/my mole\.png', wanted a file name of"
    ):
        build(replace(config, extra=str(csv)))


def test_an_outside_set_may_join_the_training(config: PrepConfig, tmp_path: Path) -> None:
    config = replace(config, extra=str(write_extra(config, tmp_path / "clinic")), extra_role="train")
    build(config)
    rows = pd.read_parquet(Path(config.out) / "samples.parquet")
    extra = rows[(rows["source"] == 0) & (rows["key"] != "ISIC_0000001")].set_index("key")
    assert set(extra["split"]) == {"train"}
    assert extra.loc[["a", "b"], "fold"].nunique() == 1
    assert extra.loc["d", "duplicate_decision"] == "dropped"
