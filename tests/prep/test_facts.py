"""The facts of new images are those that prep would read, and wrong ones are named."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from configs.errors import UserError
from configs.schema import MetaKind
from prep.facts import facts_of_csv, facts_of_options
from prep.metadata import FEATURES, hide_clinical, meta_vectors


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """Four files, of 100, 101, 102 and 103 bytes; nothing here looks inside."""
    made = [tmp_path / "seen" / name for name in ("a.jpg", "b.PNG", "c.d.jpeg", "e")]
    made[0].parent.mkdir()
    for number, path in enumerate(made):
        path.write_bytes(bytes(100 + number))
    return made


def table(tmp_path: Path, text: str) -> Path:
    (tmp_path / "meta.csv").write_text(text)
    return tmp_path / "meta.csv"


@pytest.mark.parametrize("kind", FEATURES)
@pytest.mark.parametrize("year", ["2020", "2019"])
def test_the_vectors_of_a_downloads_table_are_those_of_the_shard_set(
    downloads: tuple[Path, Path], shard_folder: Path, kind: MetaKind, year: str
) -> None:
    rows = pd.read_parquet(shard_folder / "samples.parquet")
    rows = rows[(rows["source"] == int(year)) & (rows["split"] == "train")]
    folder = downloads[0] if year == "2020" else downloads[1]
    csv = folder / ("train.csv" if year == "2020" else "ISIC_2019_Training_Metadata.csv")
    places = {path.stem: path for path in folder.rglob("*.jpg")}
    facts = facts_of_csv([places[key] for key in rows["key"]], csv)
    assert facts["in_csv"].all()
    assert len(facts) > 50
    np.testing.assert_array_equal(meta_vectors(kind, facts), np.stack(rows[f"meta_{kind}"].tolist()))


@pytest.mark.parametrize("kind", FEATURES)
@pytest.mark.parametrize(
    ("sex", "age", "site"),
    [("male", 45, "torso"), ("Female ", "61.5", " Anterior torso"), (None, None, None)],
)
def test_options_give_the_vector_that_a_csv_gives(
    images: list[Path], tmp_path: Path, kind: MetaKind, sex: str | None, age: float | str | None, site: str | None
) -> None:
    given = facts_of_options(images[:2], sex=sex, age=age, site=site)
    cells = ",".join("" if one is None else str(one) for one in (sex, age, site))
    csv = table(tmp_path, f"image,sex,age,site\na,{cells}\nb,{cells}\nother,male,3,torso\n")
    read = facts_of_csv(images[:2], csv)
    np.testing.assert_array_equal(meta_vectors(kind, given), meta_vectors(kind, read))
    if sex is None:
        vectors = meta_vectors(kind, given)
        np.testing.assert_array_equal(vectors, hide_clinical(kind, vectors))
    else:
        assert set(given["site"]) == {"torso"}
        assert set(given["sex"]) == {sex.strip().lower()}


def test_unknown_is_missing(images: list[Path]) -> None:
    facts = facts_of_options(images, sex="unknown", age="", site="Unknown")
    assert facts[["sex", "age", "site"]].isna().all(axis=None)
    assert facts["n_images"].tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"age": -5}, "--age -5: wanted an age of 0 to 120 years"),
        ({"age": -1.0}, "--age -1.0: wanted an age"),
        ({"age": "old"}, "--age old: wanted an age"),
        ({"age": float("nan")}, "--age nan: wanted an age"),
        ({"sex": "m"}, "--sex m: wanted female or male"),
        ({"site": "elbow"}, "--site elbow: wanted head/neck or upper extremity or"),
        ({"site": "lower extremty"}, "perhaps lower extremity"),
        ({"site": "posteror torso"}, "perhaps posterior torso"),
    ],
)
def test_a_wrong_option_is_named_with_what_is_known(
    images: list[Path], options: dict[str, str | float], said: str
) -> None:
    with pytest.raises(UserError) as raised:
        facts_of_options(images, **options)  # type: ignore[arg-type]
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "header",
    [
        "image_name,sex,age_approx,anatom_site_general_challenge",
        "isic_id,sex,age,anatom_site_general",
        "image,sex,age,site",
    ],
)
def test_rows_are_found_by_the_files_name_under_any_of_the_headers(
    images: list[Path], tmp_path: Path, header: str
) -> None:
    csv = table(tmp_path, f"{header}\nc.d.jpeg,male,30,torso\nfolder/a,female,,head/neck\nb.jpg,,50,\n")
    facts = facts_of_csv(images, csv)
    assert facts["in_csv"].tolist() == [True, True, True, False]
    assert facts["sex"].fillna("-").tolist() == ["female", "-", "male", "-"]
    assert facts["age"].fillna(0).tolist() == [0, 50, 30, 0]
    assert facts["site"].fillna("-").tolist() == ["head/neck", "-", "torso", "-"]
    assert facts["file_bytes"].tolist() == [100, 101, 102, 103]
    assert np.isfinite(meta_vectors("reference", facts)).all()


def test_the_images_of_a_patient_are_counted_over_the_whole_csv(images: list[Path], tmp_path: Path) -> None:
    csv = table(tmp_path, "image,patient_id,age\na,P1,3\nb,P2,3\nx,P1,4\ny,P1,5\nc.d,,9\n")
    assert facts_of_csv(images, csv)["n_images"].tolist() == [3, 1, 1, 1]


def test_a_file_that_is_missing_or_empty_has_a_finite_vector(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    facts = facts_of_options([tmp_path / "absent.jpg", tmp_path / "empty.jpg"], sex="male")
    assert facts["file_bytes"].tolist() == [1, 1]
    assert np.isfinite(meta_vectors("reference", facts)).all()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("image,age\nb,40\n\na,-5\n", "meta.csv line 4, column age: '-5', wanted an age of 0 to 120 years"),
        ("image,age\na,old\n", "line 2, column age: 'old'"),
        ("image,sex\na,femle\n", "perhaps female"),
        ("image,site\na,nose\n", "column site: 'nose', wanted head/neck or"),
        ("name,site\na,torso\n", "lacks the column image_name or image or isic_id"),
        ("image,gender\na,male\n", "gives no sex, age or site"),
        ("image,sex\nz,male\n", "names none of the 4 images: its first is z, the first image a"),
        ("image,sex\na.jpg,male\na.png,female\n", "line 3, column image: 'a.png', wanted each name once"),
        ("image,sex\n,male\n", "an image name in every row"),
    ],
)
def test_a_wrong_csv_is_named_with_line_and_column(images: list[Path], tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UserError) as raised:
        facts_of_csv(images, table(tmp_path, text))
    assert said in str(raised.value)


def test_two_files_of_one_name_and_a_csv_that_is_not_there_are_named(images: list[Path], tmp_path: Path) -> None:
    csv = table(tmp_path, "image,sex\na,male\n")
    with pytest.raises(UserError, match="two image files are named a"):
        facts_of_csv([*images, tmp_path / "a.png"], csv)
    with pytest.raises(UserError, match=r"nowhere\.csv: no such file"):
        facts_of_csv(images, tmp_path / "nowhere.csv")
