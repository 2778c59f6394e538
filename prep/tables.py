"""The ISIC 2019 and 2020 CSV files, checked and merged into one typed table.

Columns of the table, one row an image: key (str, the image's name), source (int16, 2019 or 2020), split
(str, train or test), target (int8, 1 melanoma, 0 not, -1 unknown), diagnosis, patient, lesion, sex and site
(str, missing where the CSV has nothing), age (float64, years, NaN where missing), folder (str, where the image lies).
"""

import warnings
from pathlib import Path

import numpy as np
import pandas as pd

from configs.errors import UserError

SEXES = ("female", "male")
SITES = ("head/neck", "upper extremity", "lower extremity", "torso", "palms/soles", "oral/genital")
COLUMNS = (
    "key",
    "source",
    "split",
    "target",
    "diagnosis",
    "patient",
    "lesion",
    "sex",
    "age",
    "site",
    "folder",
)

_SITE_OF_2019 = {"anterior torso": "torso", "posterior torso": "torso", "lateral torso": "torso"}
_CLASSES_OF_2019 = ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC", "UNK")
_DEMOGRAPHICS = ["sex", "age_approx"]
_SITE_2020 = "anatom_site_general_challenge"


def merged_table(isic2020: Path | None, isic2019: Path | None) -> pd.DataFrame:
    """Read one or both downloads into one table (columns as above), 2020 first, in the order of the files.

    Raises UserError that names the folder, file, column or row that does not fit.
    """
    parts = []
    if isic2020 is not None:
        parts += read_2020(isic2020)
    if isic2019 is not None:
        parts.append(read_2019(isic2019))
    table = pd.concat(parts, ignore_index=True)
    twice = table["key"][table["key"].duplicated()]
    if len(twice):
        raise UserError(f"{len(twice)} image names occur twice, first {twice.iloc[0]!r}: remove the copies")
    dotted = table["key"][table["key"].str.contains(r"[./\\]", regex=True)]
    if len(dotted):
        raise UserError(f"image name {dotted.iloc[0]!r} holds a dot or a slash: give names without file endings")
    return table


def read_2020(folder: Path) -> list[pd.DataFrame]:
    """The train table and, where there is one, the test table of the ISIC 2020 download in `folder`."""
    _require_folder(folder, "--isic2020")
    train_csv = folder / "train.csv"
    columns = ["image_name", "patient_id", *_DEMOGRAPHICS, _SITE_2020]
    train = _read_csv(train_csv, [*columns, "diagnosis", "target"])
    labels = pd.to_numeric(train["target"], errors="coerce")
    _require_rows(labels.isin([0, 1]), train["target"], train_csv, "target", "0 or 1")
    parts = [_part_of_2020(train, train_csv, folder / "jpeg" / "train", "train")]
    parts[0] = parts[0].assign(target=labels.astype("int8"), diagnosis=train["diagnosis"])
    test_csv = folder / "test.csv"
    if test_csv.is_file():
        parts.append(_part_of_2020(_read_csv(test_csv, columns), test_csv, folder / "jpeg" / "test", "test"))
    return parts


def read_2019(folder: Path) -> pd.DataFrame:
    """The train table of the ISIC 2019 download in `folder`; anterior, posterior and lateral torso become torso."""
    _require_folder(folder, "--isic2019")
    truth_csv = folder / "ISIC_2019_Training_GroundTruth.csv"
    meta_csv = folder / "ISIC_2019_Training_Metadata.csv"
    truth = _read_csv(truth_csv, ["image", *_CLASSES_OF_2019])
    meta = _read_csv(meta_csv, ["image", *_DEMOGRAPHICS, "anatom_site_general", "lesion_id"])
    onehot = truth[list(_CLASSES_OF_2019)].apply(pd.to_numeric, errors="coerce").to_numpy(dtype=np.float64)
    sound = np.isin(onehot, (0.0, 1.0)).all(axis=1) & (onehot.sum(axis=1) == 1)
    _require_rows(pd.Series(sound), truth["image"], truth_csv, "MEL..UNK", "a single 1 in every row")
    for left, right, csv in ((meta, truth, truth_csv), (truth, meta, meta_csv)):
        absent = left["image"][~left["image"].isin(right["image"])]
        if len(absent):
            raise UserError(f"{csv}: {len(absent)} images of the other table are not in it, first {absent.iloc[0]}")
    for rows, csv in ((truth, truth_csv), (meta, meta_csv)):
        _require_rows(~rows["image"].duplicated(), rows["image"], csv, "image", "each name once")
    meta = truth[["image"]].merge(meta, on="image", validate="one_to_one")
    site = meta["anatom_site_general"]
    return pd.DataFrame(
        {
            "key": truth["image"],
            "source": np.int16(2019),
            "split": "train",
            "target": onehot[:, 0].astype(np.int8),
            "diagnosis": np.array(_CLASSES_OF_2019)[onehot.argmax(axis=1)],
            "patient": pd.Series(np.nan, index=truth.index, dtype="str"),
            "lesion": meta["lesion_id"],
            "sex": _words(meta["sex"], SEXES, meta_csv),
            "age": _ages(meta["age_approx"], meta_csv),
            "site": _words(site.replace(_SITE_OF_2019), SITES, meta_csv),
            "folder": str(folder / "ISIC_2019_Training_Input"),
        },
        columns=list(COLUMNS),
    )


def read_duplicate_pairs(isic2020: Path) -> pd.DataFrame:
    """The official duplicate pairs of 2020: columns image_name_1, image_name_2; empty where the file is absent."""
    columns = ["image_name_1", "image_name_2"]
    csv = isic2020 / "ISIC_2020_Training_Duplicates.csv"
    return _read_csv(csv, columns) if csv.is_file() else pd.DataFrame(columns=columns, dtype="str")


def _part_of_2020(rows: pd.DataFrame, csv: Path, images: Path, split: str) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "key": rows["image_name"],
            "source": np.int16(2020),
            "split": split,
            "target": np.int8(-1),
            "diagnosis": pd.Series(np.nan, index=rows.index, dtype="str"),
            "patient": rows["patient_id"],
            "lesion": pd.Series(np.nan, index=rows.index, dtype="str"),
            "sex": _words(rows["sex"], SEXES, csv),
            "age": _ages(rows["age_approx"], csv),
            "site": _words(rows[_SITE_2020], SITES, csv),
            "folder": str(images),
        },
        columns=list(COLUMNS),
    )


def _read_csv(path: Path, columns: list[str]) -> pd.DataFrame:
    """All named columns of a CSV as stripped strings, empty cells as missing."""
    if not path.is_file():
        raise UserError(f"{path} does not exist: unpack the ISIC download there, or name its folder")
    try:
        with warnings.catch_warnings():
            # Without index_col=False, pandas takes rows that are longer than the header for rows with an index.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            rows = pd.read_csv(
                path, dtype="str", keep_default_na=False, na_values=[""], encoding="utf-8-sig", index_col=False
            )
    except (pd.errors.ParserError, pd.errors.ParserWarning, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a CSV file: {error}; download it again") from error
    absent = [name for name in columns if name not in rows.columns]
    if absent:
        raise UserError(f"{path} lacks the column {', '.join(absent)}; it has {', '.join(rows.columns)}")
    rows = pd.DataFrame({name: rows[name].str.strip() for name in columns})
    _require_rows(rows[columns[0]].notna(), rows[columns[0]], path, columns[0], "an image name in every row")
    return rows


def _require_folder(folder: Path, option: str) -> None:
    if not folder.is_dir():
        raise UserError(f"{option} {folder}: no such folder; name the folder of the unpacked ISIC download")


def _require_rows(good: pd.Series, shown: pd.Series, csv: Path, column: str, wanted: str) -> None:
    """Raise UserError with the first row that is not `good`; line 1 is the header."""
    bad = np.flatnonzero(~good.to_numpy(dtype=bool))
    if len(bad):
        raise UserError(
            f"{csv} line {bad[0] + 2}, column {column}: {shown.iloc[bad[0]]!r}, wanted {wanted} ({len(bad)} such rows)"
        )


def _words(values: pd.Series, known: tuple[str, ...], csv: Path) -> pd.Series:
    lowered = values.str.lower()
    _require_rows(lowered.isna() | lowered.isin(known), values, csv, str(values.name), " or ".join(known))
    return lowered


def _ages(values: pd.Series, csv: Path) -> pd.Series:
    years = pd.to_numeric(values, errors="coerce")
    _require_rows(values.isna() | years.between(0, 120), values, csv, str(values.name), "an age of 0 to 120 years")
    return years.astype("float64")
