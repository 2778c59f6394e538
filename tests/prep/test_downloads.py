"""Downloads as people have them: each variant holds the same 80 + 9 + 60 images, and must make the same shard set."""

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from configs.errors import UserError
from configs.prep import MergeConfig, PrepConfig
from prep.build import build
from prep.manifest import read_manifest
from prep.master import write_master
from prep.rows import read_rows
from prep.tables import merged_table

TRUTH_2019, META_2019 = "ISIC_2019_Training_GroundTruth.csv", "ISIC_2019_Training_Metadata.csv"


def rename_columns(path: Path, names: dict[str, str]) -> None:
    pd.read_csv(path, dtype="str", keep_default_na=False).rename(columns=names).to_csv(path, index=False)


def archive(folder: Path) -> None:
    """The ISIC archive's names, with its other test columns."""
    (folder / "train.csv").rename(folder / "ISIC_2020_Training_GroundTruth.csv")
    (folder / "test.csv").rename(folder / "ISIC_2020_Test_Metadata.csv")
    renamed = {"image_name": "image", "patient_id": "patient", "anatom_site_general_challenge": "anatom_site_general"}
    rename_columns(folder / "ISIC_2020_Test_Metadata.csv", renamed)
    (folder / "jpeg" / "train").rename(folder / "ISIC_2020_Training_Input")
    (folder / "jpeg" / "test").rename(folder / "ISIC_2020_Test_Input")


def archive_train(folder: Path) -> None:
    archive(folder)
    (folder / "ISIC_2020_Training_Input").rename(folder / "train")


def resized_2020(folder: Path) -> None:
    """A ready-resized set: train.csv, train/, test/, with columns of its own."""
    for split in ("train", "test"):
        (folder / "jpeg" / split).rename(folder / split)
        table = pd.read_csv(folder / f"{split}.csv", dtype="str", keep_default_na=False)
        table.assign(tfrecord="3", width="6000", height="4000").to_csv(folder / f"{split}.csv", index=False)


def beside_others(folder: Path) -> None:
    """Kaggle's download whole: DICOM files in train/, which are no pictures of ours."""
    (folder / "train").mkdir()
    for path in (folder / "jpeg" / "train").iterdir():
        (folder / "train" / f"{path.stem}.dcm").write_bytes(b"DICM")


def endings_2020(folder: Path) -> None:
    for number, path in enumerate(sorted((folder / "jpeg" / "train").iterdir())):
        path.rename(path.with_suffix((".jpeg", ".JPG", ".jpg")[number % 3]))


def as_it_is(_: Path) -> None:
    pass


def doubled(folder: Path) -> None:
    images = folder / "ISIC_2019_Training_Input"
    images.rename(folder / "inner")
    images.mkdir()
    (folder / "inner").rename(images / "ISIC_2019_Training_Input")


def by_class(folder: Path) -> None:
    with (folder / TRUTH_2019).open() as file:
        for row in csv.DictReader(file):
            name = next(column for column, value in row.items() if value == "1.0")
            target = folder / "ISIC_2019_Training_Input" / name / f"{row['image']}.jpg"
            target.parent.mkdir(exist_ok=True)
            (folder / "ISIC_2019_Training_Input" / target.name).rename(target)


def classes_at_the_top(folder: Path) -> None:
    by_class(folder)
    for inner in list((folder / "ISIC_2019_Training_Input").iterdir()):
        inner.rename(folder / inner.name)
    (folder / "ISIC_2019_Training_Input").rmdir()


def resized_2019(folder: Path) -> None:
    """The train.csv + train/ of resized sets, which call 2019's columns by 2020's names."""
    truth, meta = pd.read_csv(folder / TRUTH_2019), pd.read_csv(folder / META_2019, dtype="str")
    table = meta.rename(columns={"image": "image_name", "anatom_site_general": "anatom_site_general_challenge"})
    table["target"] = truth["MEL"].astype(int)
    table["diagnosis"] = truth.drop(columns="image").idxmax(axis=1)
    table.to_csv(folder / "train.csv", index=False)
    (folder / TRUTH_2019).unlink()
    (folder / META_2019).unlink()
    (folder / "ISIC_2019_Training_Input").rename(folder / "train")


Change = Callable[[Path], None]


@pytest.fixture(scope="module")
def usual(downloads: tuple[Path, Path]) -> pd.DataFrame:
    return merged_and_found(*downloads)


def merged_and_found(isic2020: Path, isic2019: Path) -> pd.DataFrame:
    rows = read_rows(PrepConfig(isic2020=str(isic2020), isic2019=str(isic2019)))
    return rows.drop(columns=["folder", "file", "path", "changed_ns"])


@pytest.mark.parametrize(
    ("of_2020", "of_2019"),
    [
        (archive, as_it_is),
        (archive_train, as_it_is),
        (resized_2020, as_it_is),
        (beside_others, as_it_is),
        (endings_2020, as_it_is),
        (as_it_is, doubled),
        (as_it_is, by_class),
        (as_it_is, classes_at_the_top),
        (as_it_is, resized_2019),
    ],
)
def test_every_layout_gives_the_same_rows(
    downloads: tuple[Path, Path], tmp_path: Path, usual: pd.DataFrame, of_2020: Change, of_2019: Change
) -> None:
    folders = []
    for source, change in zip(downloads, (of_2020, of_2019), strict=True):
        folder = tmp_path / source.name
        shutil.copytree(source, folder)
        change(folder)
        folders.append(folder)
    pd.testing.assert_frame_equal(merged_and_found(*folders), usual)


def test_png_and_bmp_pictures_make_a_set(downloads: tuple[Path, Path], tmp_path: Path) -> None:
    folder = tmp_path / "2020"
    shutil.copytree(downloads[0], folder)
    for number, path in enumerate(sorted((folder / "jpeg" / "train").iterdir())):
        with Image.open(path) as image:
            image.save(path.with_suffix((".png", ".bmp", ".PNG")[number % 3]))
        path.unlink()
    build(PrepConfig(isic2020=str(folder), out=str(tmp_path / "set"), size=64, folds=3, workers=1))
    assert read_manifest(tmp_path / "set").samples == 89


def test_lesion_ids_of_the_second_ground_truth_join_the_groups(downloads: tuple[Path, Path], tmp_path: Path) -> None:
    for name in ("alone", "beside"):
        folder = tmp_path / name
        shutil.copytree(downloads[0], folder)
        table = pd.read_csv(folder / "train.csv", dtype="str", keep_default_na=False)
        table.insert(2, "lesion_id", [f"IL_{number // 4:07d}" for number in range(len(table))])
        table.to_csv(folder / "ISIC_2020_Training_GroundTruth_v2.csv", index=False)
        if name == "alone":
            (folder / "train.csv").unlink()
        rows = merged_table(folder, None)
        assert rows["lesion"].nunique() == 20
        build(PrepConfig(isic2020=str(folder), out=str(folder / "set"), size=64, folds=3, workers=1))
        kept = pd.read_parquet(folder / "set" / "samples.parquet").query("split == 'train'")
        assert kept.groupby("lesion")["group"].nunique().max() == 1
        assert kept.groupby("lesion")["fold"].nunique().max() == 1


def test_a_resized_2019_set_without_lesion_ids_is_refused(downloads: tuple[Path, Path], tmp_path: Path) -> None:
    folder = tmp_path / "2019"
    shutil.copytree(downloads[1], folder)
    resized_2019(folder)
    table = pd.read_csv(folder / "train.csv", dtype="str", keep_default_na=False)
    table.drop(columns="lesion_id").to_csv(folder / "train.csv", index=False)
    with pytest.raises(UserError, match="lacks the column lesion_id"):
        merged_table(None, folder)
    shutil.copy(downloads[1] / META_2019, folder)
    assert merged_table(None, folder)["lesion"].notna().sum() == table["lesion_id"].ne("").sum()
    bare = table.assign(image_name=table["image_name"].str.removesuffix("_downsampled")).drop(columns="lesion_id")
    bare.to_csv(folder / "train.csv", index=False)
    assert merged_table(None, folder)["lesion"].notna().sum() == table["lesion_id"].ne("").sum()
    bare.replace("ISIC_1000001", "ISIC_7").to_csv(folder / "train.csv", index=False)
    with pytest.raises(
        UserError, match=r"train\.csv line 3, column image_name: 'ISIC_7', wanted an image of ISIC_2019"
    ):
        merged_table(None, folder)


def test_a_name_with_two_pictures_is_refused(downloads: tuple[Path, Path], tmp_path: Path) -> None:
    folder = tmp_path / "2020"
    shutil.copytree(downloads[0], folder)
    shutil.copy(folder / "jpeg/train/ISIC_0000004.jpg", folder / "jpeg/train/ISIC_0000004.PNG")
    with pytest.raises(UserError, match=r"ISIC_0000004 has two image files, .*PNG and .*jpg"):
        read_rows(PrepConfig(isic2020=str(folder)))


def test_what_takes_a_files_place_is_not_passed_over(downloads: tuple[Path, Path], tmp_path: Path) -> None:
    folder = tmp_path / "2020"
    shutil.copytree(downloads[0], folder)
    picture, table = folder / "jpeg/train/ISIC_0000004.jpg", folder / "test.csv"
    picture.unlink()
    picture.symlink_to(picture.name)  # to itself
    with pytest.raises(UserError, match=r"1 of 89 images .* are missing in the folders, first ISIC_0000004"):
        read_rows(PrepConfig(isic2020=str(folder)))
    table.unlink()
    table.symlink_to("nowhere")
    with pytest.raises(UserError, match=r"test\.csv does not exist"):
        read_rows(PrepConfig(isic2020=str(folder), missing="skip"))


def test_an_empty_folder_names_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"wanted one of train\.csv, ISIC_2020_Training_GroundTruth_v2\.csv"):
        merged_table(tmp_path, None)


@pytest.fixture(scope="module")
def master(downloads: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    csv_file = tmp_path_factory.mktemp("master") / "train_merged_master.csv"
    write_master(MergeConfig(isic2020=str(downloads[0]), isic2019=str(downloads[1]), out=str(csv_file), folds=3))
    return csv_file


def test_the_master_table_holds_every_training_image(downloads: tuple[Path, Path], master: Path) -> None:
    table = pd.read_csv(master, dtype={"sex": "str"})
    rows = merged_table(*downloads).query("split == 'train'")
    assert list(table.columns) == [
        *("image_name", "target", "year", "filepath", "patient", "lesion"),
        *("sex", "age", "site", "diagnosis", "group", "fold"),
    ]
    assert table["image_name"].tolist() == rows["key"].tolist()
    assert table["target"].tolist() == rows["target"].tolist()
    assert table["year"].tolist() == rows["source"].tolist()
    for name in ("patient", "lesion", "sex", "age", "site", "diagnosis"):
        assert table[name].isna().tolist() == rows[name].isna().tolist()
    assert all(Path(path).is_file() for path in table["filepath"])
    assert set(table["fold"]) == {0, 1, 2}


def test_a_look_at_the_pictures_gives_the_folds_of_the_shard_set(
    downloads: tuple[Path, Path], tmp_path: Path, shard_folder: Path
) -> None:
    config = MergeConfig(
        isic2020=str(downloads[0]),
        isic2019=str(downloads[1]),
        out=str(tmp_path / "m.csv"),
        folds=3,
        look=True,
        workers=1,
    )
    write_master(config)
    assert [path.name for path in tmp_path.iterdir()] == ["m.csv"]
    ours = pd.read_parquet(shard_folder / "samples.parquet").set_index("key")["fold"]
    table = pd.read_csv(tmp_path / "m.csv").set_index("image_name")["fold"]
    assert (table == ours[table.index]).all()


def test_a_master_with_the_downloads_tables_makes_the_same_set(
    downloads: tuple[Path, Path], tmp_path: Path, master: Path, shard_folder: Path
) -> None:
    bare = pd.read_csv(master)[["image_name", "target", "year", "filepath"]]
    bare.to_csv(tmp_path / "bare.csv", index=False)
    build(
        PrepConfig(
            isic2020=str(downloads[0]),
            isic2019=str(downloads[1]),
            master=str(tmp_path / "bare.csv"),
            out=str(tmp_path / "set"),
            size=64,
            folds=3,
            workers=1,
            samples_per_shard=20,
        )
    )
    for entry in read_manifest(shard_folder).shards:
        assert (tmp_path / "set" / entry.file).read_bytes() == (shard_folder / entry.file).read_bytes()


def test_training_rows_that_the_master_does_not_name_are_left_out(
    downloads: tuple[Path, Path], tmp_path: Path, master: Path
) -> None:
    pd.read_csv(master).iloc[5:].to_csv(tmp_path / "master.csv", index=False)
    isic2020, isic2019 = map(str, downloads)
    rows = read_rows(PrepConfig(isic2020=isic2020, isic2019=isic2019, master=str(tmp_path)))
    assert (rows["left_out"] == "not in the master table").sum() == 5
    assert (rows["split"] == "test").sum() == 9


def test_a_master_with_missing_images_is_taken_as_a_partial_download(
    downloads: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for source in downloads:
        shutil.copytree(source, tmp_path / source.name)
    (tmp_path / "2020/jpeg/train/ISIC_0000000.jpg").unlink()
    monkeypatch.chdir(tmp_path)
    write_master(MergeConfig(isic2020="2020", isic2019="2019", out="m.csv", folds=3))
    monkeypatch.chdir("/")
    rows = read_rows(PrepConfig(master=str(tmp_path / "m.csv"), missing="skip"))
    assert rows["key"][rows["left_out"].notna()].tolist() == ["ISIC_0000000"]
    with pytest.raises(UserError, match="1 of 140 images of the tables are missing"):
        read_rows(PrepConfig(master=str(tmp_path / "m.csv")))


def test_paths_of_a_master_are_looked_for_one_by_one(
    downloads: tuple[Path, Path], tmp_path: Path, master: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = pd.read_csv(master)
    inside = table["filepath"].map(lambda path: str(Path(path).relative_to(downloads[0].parent)))
    table.assign(filepath=inside.where(table.index > 0, "not/there.jpg")).to_csv(tmp_path / "m.csv", index=False)
    (tmp_path / "2020").symlink_to(downloads[0])
    monkeypatch.chdir(downloads[0].parent)  # 2020 lies beside the CSV, 2019 only here
    rows = read_rows(PrepConfig(master=str(tmp_path / "m.csv"), missing="skip"))
    assert rows["left_out"].notna().sum() == 1


def test_the_tables_alone_suffice_for_a_master(downloads: tuple[Path, Path], tmp_path: Path, master: Path) -> None:
    for source in downloads:
        (tmp_path / source.name).mkdir()
        for csv_file in source.glob("*.csv"):
            shutil.copy(csv_file, tmp_path / source.name)
    out = tmp_path / "m.csv"
    write_master(MergeConfig(isic2020=str(tmp_path / "2020"), isic2019=str(tmp_path / "2019"), out=str(out), folds=3))
    table = pd.read_csv(out)
    assert table["filepath"].isna().all()
    assert table["fold"].tolist() == pd.read_csv(master)["fold"].tolist()


def test_a_folds_file_has_to_know_the_masters_rows_only(
    downloads: tuple[Path, Path], tmp_path: Path, master: Path
) -> None:
    part = pd.read_csv(master).iloc[10:]
    part.to_csv(tmp_path / "master.csv", index=False)
    config = PrepConfig(
        isic2020=str(downloads[0]),
        isic2019=str(downloads[1]),
        master=str(tmp_path / "master.csv"),
        folds_file=str(tmp_path / "master.csv"),
        out=str(tmp_path / "set"),
        size=64,
        workers=1,
    )
    build(config)
    manifest = read_manifest(tmp_path / "set")
    assert (manifest.samples, manifest.options["folds"]) == (139, 3)


def test_a_whole_master_alone_suffices(tmp_path: Path, master: Path) -> None:
    rows = read_rows(PrepConfig(master=str(master)))
    assert len(rows) == 140
    assert rows["patient"].notna().sum() == 80
    pd.read_csv(master)[["image_name", "target", "year", "filepath"]].to_csv(tmp_path / "bare.csv", index=False)
    with pytest.raises(UserError, match="lacks the column patient_id or patient"):
        read_rows(PrepConfig(master=str(tmp_path / "bare.csv")))


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("target", 1, "column target: '1', wanted the target of the download's table"),
        ("year", 2019, "column year: '2019', wanted the year of the download's table"),
        ("image_name", "ISIC_9", "column image_name: 'ISIC_9', wanted an image of the downloads' training tables"),
    ],
)
def test_a_master_that_contradicts_the_tables_names_the_line(
    downloads: tuple[Path, Path], tmp_path: Path, master: Path, column: str, value: object, said: str
) -> None:
    table = pd.read_csv(master)
    table.loc[7, column] = value
    table.to_csv(tmp_path / "master.csv", index=False)
    with pytest.raises(UserError) as raised:
        merged_table(*downloads, tmp_path / "master.csv")
    assert f"master.csv line 9, {said}" in str(raised.value)
