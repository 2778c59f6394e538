from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from configs.errors import UserError
from prep.tables import merged_table, read_2019, read_2020, read_duplicate_pairs


def test_the_real_tables_merge_to_the_known_counts(isic_sample: Path) -> None:
    table = merged_table(isic_sample / "2020", isic_sample / "2019")
    train = table[table["split"] == "train"]
    assert (len(train), int((train["target"] == 1).sum())) == (58_457, 5_106)
    sites = train.groupby(train["site"].fillna("missing"))["target"].agg(["size", "mean"])
    known = {
        "torso": (26_601, 0.0764),
        "lower extremity": (13_407, 0.0686),
        "upper extremity": (7_893, 0.1058),
        "head/neck": (6_442, 0.1481),
        "missing": (3_158, 0.0431),
        "palms/soles": (773, 0.2665),
        "oral/genital": (183, 0.1257),
    }
    assert {site: (int(row["size"]), round(row["mean"], 4)) for site, row in sites.iterrows()} == known
    assert (table["split"] == "test").sum() == 10_982


def test_missing_values_stay_missing(isic_sample: Path) -> None:
    rows = read_2019(isic_sample / "2019")
    nulls = {name: int(rows[name].isna().sum()) for name in ("age", "site", "sex", "lesion")}
    assert nulls == {"age": 437, "site": 2_631, "sex": 384, "lesion": 2_084}


def test_either_source_alone_suffices(downloads: tuple[Path, Path]) -> None:
    isic2020, isic2019 = downloads
    assert set(merged_table(isic2020, None)["source"]) == {2020}
    assert set(merged_table(None, isic2019)["source"]) == {2019}


def edited(downloads: tuple[Path, Path], tmp_path: Path, name: str, old: str, new: str) -> Path:
    """A copy of one download's tables (no images) with a text replaced in the file `name`."""
    source = downloads[0] if (downloads[0] / name).is_file() else downloads[1]
    for csv in source.glob("*.csv"):
        (tmp_path / csv.name).write_text(csv.read_text())
    text = (tmp_path / name).read_text()
    assert old in text
    (tmp_path / name).write_text(text.replace(old, new, 1))
    return tmp_path


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("train.csv", "sex,", "gender,", "lacks the column sex"),
        ("train.csv", "nevus,benign,0", "nevus,benign,2", "column target: '2', wanted 0 or 1"),
        ("train.csv", "head/neck", "elbow", "column anatom_site_general_challenge: 'elbow'"),
        ("train.csv", "60.0", "old", "column age_approx: 'old'"),
        ("train.csv", "male", "m", "column sex: 'm'"),
        ("train.csv", "ISIC_0000003,", ",", "an image name in every row"),
        ("train.csv", "ISIC_0000003,", "ISIC 3.jpg,", "'ISIC 3.jpg', wanted a name of letters, digits, - and _"),
        ("train.csv", "ISIC_0000003,", "ISIC_0000004,", "image_name: 'ISIC_0000004', wanted each name once"),
        ("test.csv", "sex,", "gender,", "lacks the column sex"),
    ],
)
def test_a_bad_2020_table_names_file_and_place(
    downloads: tuple[Path, Path], tmp_path: Path, name: str, old: str, new: str, said: str
) -> None:
    folder = edited(downloads, tmp_path, name, old, new)
    with pytest.raises(UserError) as raised:
        merged_table(folder, None)
    assert said in str(raised.value)
    assert name in str(raised.value)


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("ISIC_2019_Training_GroundTruth.csv", "1.0,0.0", "1.0,1.0", "a single 1 in every row"),
        ("ISIC_2019_Training_GroundTruth.csv", "MEL", "MELANOMA", "lacks the column MEL"),
        ("ISIC_2019_Training_Metadata.csv", "ISIC_1000003,", "ISIC_1999999,", "not in it, first ISIC_1"),
        ("ISIC_2019_Training_Metadata.csv", "anterior torso", "torso, front", "is not a CSV file"),
    ],
)
def test_a_bad_2019_table_names_file_and_place(
    downloads: tuple[Path, Path], tmp_path: Path, name: str, old: str, new: str, said: str
) -> None:
    folder = edited(downloads, tmp_path, name, old, new)
    with pytest.raises(UserError) as raised:
        read_2019(folder)
    assert said in str(raised.value)


def test_the_row_named_is_the_line_of_the_file(downloads: tuple[Path, Path], tmp_path: Path) -> None:
    folder = edited(downloads, tmp_path, "train.csv", "nevus,benign,0", "nevus,benign,7")
    lines = (folder / "train.csv").read_text().splitlines()
    line = next(number for number, text in enumerate(lines, start=1) if text.endswith(",7"))
    with pytest.raises(UserError, match=rf"train\.csv line {line},"):
        read_2020(folder)


def test_blank_lines_and_another_order_of_the_tables_do_not_change_the_line_that_is_named(
    downloads: tuple[Path, Path], tmp_path: Path
) -> None:
    name = "ISIC_2019_Training_Metadata.csv"
    for csv in downloads[1].glob("*.csv"):
        (tmp_path / csv.name).write_text(csv.read_text())
    header, *lines = (tmp_path / name).read_text().splitlines()
    lines = [header, *reversed(lines)]
    lines[5] = lines[5].replace("male", "m")
    (tmp_path / name).write_text("\n".join([*lines[:3], "", *lines[3:]]) + "\n")
    with pytest.raises(UserError, match=rf"{name} line 7, column sex: 'm'"):
        read_2019(tmp_path)
    (tmp_path / name).write_text("\n".join([*lines[:3], "", *lines[3:]]).replace(",m\n", ",male\n") + "\n")
    pd.testing.assert_frame_equal(
        read_2019(tmp_path).drop(columns="folder"), read_2019(downloads[1]).drop(columns="folder")
    )


def test_no_such_folder_names_the_option(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--isic2020 .*: no such folder"):
        merged_table(tmp_path / "nowhere", None)


def in_excel(csv: Path) -> None:
    text = csv.read_text().replace(",", ";").replace("60.0", "60,0")
    csv.write_bytes(text.encode("utf-16"))


def with_endings(csv: Path) -> None:
    header, *lines = csv.read_text().splitlines()
    names = [line.replace(",", (".jpg,", ".JPEG,", ".webp,")[number % 3], 1) for number, line in enumerate(lines)]
    csv.write_text("\n".join([header, *names]) + "\n")


def with_a_hint(csv: Path) -> None:
    csv.write_text("sep=,\r\n" + csv.read_text())


def in_capitals(csv: Path) -> None:
    header, rest = csv.read_text().split("\n", 1)
    csv.write_text(" ,".join(name.replace("_", " ").title() for name in header.split(",")) + "\n" + rest)


@pytest.mark.parametrize("change", [in_excel, with_endings, with_a_hint, in_capitals])
def test_tables_that_a_spreadsheet_or_a_hand_changed_give_the_same_rows(
    change: Callable[[Path], None], downloads: tuple[Path, Path], tmp_path: Path
) -> None:
    for name in ("train.csv", "test.csv"):
        (tmp_path / name).write_text((downloads[0] / name).read_text())
        change(tmp_path / name)
    wanted, found = (merged_table(folder, None).drop(columns="folder") for folder in (downloads[0], tmp_path))
    pd.testing.assert_frame_equal(found, wanted)


def test_official_pairs_are_found_by_names_with_endings(tmp_path: Path) -> None:
    (tmp_path / "ISIC_2020_Training_Duplicates.csv").write_text("image_name_1,image_name_2\nISIC_1.jpg,ISIC_2.jpg\n")
    assert read_duplicate_pairs(tmp_path).to_numpy().tolist() == [["ISIC_1", "ISIC_2"]]


@pytest.mark.parametrize("value", ["-1", "nan", "2"])
def test_a_wrong_target_is_shown_as_it_is_written(downloads: tuple[Path, Path], tmp_path: Path, value: str) -> None:
    folder = edited(downloads, tmp_path, "train.csv", "nevus,benign,0", f"nevus,benign,{value}")
    with pytest.raises(UserError, match=f"column target: '{value}', wanted 0 or 1"):
        read_2020(folder)


def test_two_names_that_differ_in_their_ending_alone_are_refused(downloads: tuple[Path, Path], tmp_path: Path) -> None:
    folder = edited(downloads, tmp_path, "train.csv", "ISIC_0000003,", "ISIC_0000002.jpg,")
    with pytest.raises(UserError, match=r"image_name: 'ISIC_0000002\.jpg', wanted each name once"):
        read_2020(folder)


def test_the_nearest_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "isic2020").mkdir()
    with pytest.raises(UserError, match=r"--isic2020 .*: no such folder; did you mean .*isic2020\?"):
        merged_table(tmp_path / "isic202", None)
