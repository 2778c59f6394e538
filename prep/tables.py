"""The tables of ISIC 2019 and 2020 and of a merged master, checked and merged into one typed table.

Columns, one row an image: key (str, the image's name), source (int16, 2019 or 2020, 0 for an outside set), split
(str: train, test or extra), target (int8, 1 melanoma, 0 not, -1 unknown), diagnosis, patient, lesion, sex and site
(str, missing where the CSV has nothing), age (float64, years, NaN where missing), folder (str, with the image somewhere
below it), file (str, the image's exact path where the table gives it, else missing) and left_out (str, why the row is
not used, else missing).
"""

import os
from pathlib import Path

import numpy as np
import pandas as pd

from configs.errors import UserError
from prep import layout
from prep.columns import KEY, LABEL, LESION, PATIENT, PERSON, SITE_WORDS
from prep.csvfile import ages, read_csv, require_rows, whole_numbers, without_endings, words

SEXES = ("female", "male")
SITES = ("head/neck", "upper extremity", "lower extremity", "torso", "palms/soles", "oral/genital")
UNNAMED = "not in the master table"
"""Why a training row is left out: a master table does not name it."""
OUTSIDE = 0
"""The source of an outside set's rows."""

_CLASSES_OF_2019 = ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC", "UNK")


def merged_table(isic2020: Path | None, isic2019: Path | None, master: Path | None = None) -> pd.DataFrame:
    """Read one or both downloads into one table, 2020 first, in the order of the files.

    A `master` CSV decides which images are the training rows, and names their files; everything else comes from the
    downloads' tables, or from the master itself where no download is given. Raises UserError with the folder, file,
    column or row that is wrong.
    """
    parts = []
    if isic2020 is not None:
        parts += read_2020(isic2020)
    if isic2019 is not None:
        parts.append(read_2019(isic2019))
    if master is not None:
        parts = [join_master(pd.concat(parts, ignore_index=True) if parts else None, master)]
    table = pd.concat(parts, ignore_index=True)
    twice = table["key"][table["key"].duplicated()]
    if len(twice):
        raise UserError(f"{len(twice)} image names are in two tables, first {twice.iloc[0]!r}: remove one row of each")
    return table


def read_2020(folder: Path) -> list[pd.DataFrame]:
    """The train table and, where there is one, the test table of the ISIC 2020 download in `folder`.

    Lesion ids come from the archive's second ground truth, where that exists too.
    """
    layout.require_folder(folder, "--isic2020")
    csv = layout.find_table(folder, layout.TRAIN_2020)
    if csv is None:
        raise UserError(f"{folder} holds no ISIC 2020 tables: wanted one of {', '.join(layout.TRAIN_2020)}")
    train = read_csv(csv, KEY | PATIENT | PERSON | LABEL | LESION, optional=["lesion_id"])
    images = layout.pictures_folder(folder, layout.TRAIN_PICTURES_2020)
    parts = [typed(train, csv, source=2020, split="train", folder=images)]
    lesions = layout.find_table(folder, layout.LESIONS_2020)
    if lesions is not None and lesions != csv:
        known = read_csv(lesions, KEY | LESION).set_index("image_name")["lesion_id"]
        parts[0]["lesion"] = parts[0]["lesion"].fillna(parts[0]["key"].map(known))
    test_csv = layout.find_table(folder, layout.TEST_2020)
    if test_csv is not None:
        test = read_csv(test_csv, KEY | PATIENT | PERSON)
        images = layout.pictures_folder(folder, layout.TEST_PICTURES_2020)
        parts.append(typed(test, test_csv, source=2020, split="test", folder=images))
    return parts


def read_2019(folder: Path) -> pd.DataFrame:
    """The train table of the ISIC 2019 download in `folder`: the challenge's two tables, or the train.csv of a resized
    set, which must then have the lesion ids: without them images of one lesion would be in several folds."""
    layout.require_folder(folder, "--isic2019")
    images = layout.pictures_folder(folder, layout.PICTURES_2019)
    csv, meta_csv = (layout.find_table(folder, names) for names in (layout.TRUTH_2019, layout.META_2019))
    resized = layout.find_table(folder, layout.RESIZED_2019)
    if csv is None and resized is not None:
        if meta_csv is None:
            rows = read_csv(resized, KEY | LESION | PERSON | LABEL)
        else:
            rows = read_csv(resized, KEY | PERSON | LABEL)
            lesions = read_csv(meta_csv, {"image": ["image"]} | LESION).set_index("image")["lesion_id"]
            full = rows["image_name"].where(rows["image_name"].isin(lesions.index), rows["image_name"] + "_downsampled")
            known = f"an image of {meta_csv.name}"
            require_rows(full.isin(lesions.index), rows["image_name"], resized, "image_name", known)
            rows["lesion_id"] = full.map(lesions)
        return typed(rows, resized, source=2019, split="train", folder=images)
    csv, meta_csv = csv or folder / layout.TRUTH_2019[0], meta_csv or folder / layout.META_2019[0]
    truth = read_csv(csv, {name: [name] for name in ("image", *_CLASSES_OF_2019)})
    meta = read_csv(meta_csv, {"image": ["image"]} | PERSON | LESION)
    onehot = truth[list(_CLASSES_OF_2019)].apply(pd.to_numeric, errors="coerce")
    sound = onehot.isin((0, 1)).all(axis=1) & (onehot.sum(axis=1) == 1)
    require_rows(sound, truth["image"], csv, "MEL..UNK", "a single 1 in every row")
    for left, right, place in ((meta, truth, csv), (truth, meta, meta_csv)):
        absent = left["image"][~left["image"].isin(right["image"])]
        if len(absent):
            raise UserError(f"{place}: {len(absent)} images of the other table are not in it, first {absent.iloc[0]}")
    rows = meta.rename(columns={"image": "image_name"})
    rows["diagnosis"] = rows["image_name"].map(onehot.idxmax(axis=1).set_axis(truth["image"]))
    rows["target"] = (rows["diagnosis"] == "MEL").astype("int8").astype("str")
    table = typed(rows, meta_csv, source=2019, split="train", folder=images)
    return table.set_index("key").loc[truth["image"]].rename_axis("key").reset_index()


def join_master(table: pd.DataFrame | None, csv: Path) -> pd.DataFrame:
    """The training rows that a master CSV names, with its paths; the downloads' `table` has all other columns, and its
    other training rows are left out. Without a table, the master must have all columns itself."""
    if csv.is_dir():
        found = sorted(csv.glob("*master*.csv"))
        if len(found) != 1:
            raise UserError(f"--master {csv}: wanted one file named *master*.csv there, found {len(found)}")
        csv = found[0]
    place = {"target": ["target"], "year": ["year"], "filepath": ["filepath"]}
    if table is None:
        rows = read_csv(csv, KEY | place | PATIENT | LESION | PERSON | LABEL, optional=["diagnosis"])
        years = whole_numbers(rows, "year", (2019, 2020), csv)
        joined = typed(rows, csv, source=years, split="train", folder=None)
        joined["file"] = _paths(rows["filepath"], csv)
        return joined
    rows = read_csv(csv, KEY | place)
    targets = whole_numbers(rows, "target", (0, 1), csv)
    years = whole_numbers(rows, "year", (2019, 2020), csv)
    train = table[table["split"] == "train"].set_index("key")
    for good, column, wanted in (
        (rows["image_name"].isin(train.index), "image_name", "an image of the downloads' training tables"),
        (rows["image_name"].map(train["target"]) == targets, "target", "the target of the download's table"),
        (rows["image_name"].map(train["source"]) == years, "year", "the year of the download's table"),
    ):
        require_rows(good, rows[column], csv, column, wanted)
    path = table["key"].map(_paths(rows["filepath"], csv).set_axis(rows["image_name"]))
    train_rows = table["split"] == "train"
    reason = pd.Series(UNNAMED, table.index, dtype="str").where(train_rows & ~table["key"].isin(rows["image_name"]))
    return table.assign(file=path.astype("str"), folder=table["folder"].mask(train_rows), left_out=reason)


def read_duplicate_pairs(isic2020: str | Path | None) -> pd.DataFrame:
    """The official duplicate pairs of 2020: columns image_name_1, image_name_2; empty where there is no such file."""
    csv = layout.find_table(Path(isic2020), layout.PAIRS_2020) if isic2020 else None
    if csv is None:
        return pd.DataFrame(columns=["image_name_1", "image_name_2"], dtype="str")
    pairs = read_csv(csv, {name: [name] for name in ("image_name_1", "image_name_2")}, pattern=None)
    return pairs.apply(lambda names: without_endings(names, csv))


def typed_person(rows: pd.DataFrame, csv: Path | None) -> pd.DataFrame:
    """sex, age (years) and site of rows with the columns of PERSON, missing where they are; `csv` as in `words`."""
    return pd.DataFrame(
        {
            "sex": words(rows, "sex", SEXES, csv),
            "age": ages(rows, "age_approx", csv),
            "site": words(rows, "site", SITES, csv, synonyms=SITE_WORDS),
        }
    )


def typed(rows: pd.DataFrame, csv: Path, *, source: int | pd.Series, split: str, folder: str | None) -> pd.DataFrame:
    """Rows under the names of `read_csv` -> the columns of this module's table. Raises UserError for a wrong cell."""
    missing = pd.Series(np.nan, index=rows.index, dtype="str")
    target = whole_numbers(rows, "target", (0, 1), csv) if "target" in rows else pd.Series(-1, index=rows.index)
    facts = typed_person(rows, csv)
    return pd.DataFrame(
        {
            "key": rows["image_name"],
            "source": pd.Series(source, index=rows.index, dtype="int16"),
            "split": split,
            "target": target.astype("int8"),
            "diagnosis": rows.get("diagnosis", missing).astype("str"),
            "patient": rows.get("patient_id", missing).astype("str"),
            "lesion": rows.get("lesion_id", missing).astype("str"),
            "sex": facts["sex"],
            "age": facts["age"],
            "site": facts["site"],
            "folder": missing if folder is None else folder,
            "file": missing,
            "left_out": missing,
        }
    )


def _paths(files: pd.Series, csv: Path) -> pd.Series:
    """Paths as a master CSV gives them: absolute, relative to the CSV, or else to the working directory."""

    def found(name: str) -> str:
        beside = os.path.join(csv.parent, name)  # noqa: PTH118  a Path for each of 10 million files is slow
        return beside if os.path.exists(beside) else name  # noqa: PTH110

    return files.map(found, na_action="ignore").astype("str")
