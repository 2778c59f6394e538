"""What lies in a download folder: which tables, and where the picture of each name is.

Downloads differ: Kaggle's and the archive's names, a folder unpacked into one of its own name, pictures sorted into
class folders, sets that others have resized. So a table is looked for under each name it is known by, and pictures
by their own names, below the first known folder that is there.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from configs.errors import UserError

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp")

TRAIN_2020 = ("train.csv", "ISIC_2020_Training_GroundTruth_v2.csv", "ISIC_2020_Training_GroundTruth.csv")
TEST_2020 = ("test.csv", "ISIC_2020_Test_Metadata.csv")
PAIRS_2020 = ("ISIC_2020_Training_Duplicates.csv",)
LESIONS_2020 = ("ISIC_2020_Training_GroundTruth_v2.csv",)
TRUTH_2019 = ("ISIC_2019_Training_GroundTruth.csv",)
META_2019 = ("ISIC_2019_Training_Metadata.csv",)
RESIZED_2019 = ("train.csv",)
# Folders of pictures, the likeliest first; "." is the download itself, for pictures that lie bare or by class.
TRAIN_PICTURES_2020 = ("jpeg/train", "ISIC_2020_Training_Input", "ISIC_2020_Training_JPEG", "train", ".")
TEST_PICTURES_2020 = ("jpeg/test", "ISIC_2020_Test_Input", "ISIC_2020_Test_JPEG", "test", ".")
PICTURES_2019 = ("ISIC_2019_Training_Input", "train", ".")


@dataclass(frozen=True)
class Picture:
    """An image file as it was found."""

    path: str
    bytes: int
    changed_ns: int


def find_table(folder: Path, names: Sequence[str]) -> Path | None:
    """The first of the files `names` that `folder` holds."""
    return next((folder / name for name in names if (folder / name).is_file()), None)


def require_folder(folder: Path, option: str) -> None:
    """Raise UserError where `folder` is not there."""
    if not folder.is_dir():
        raise UserError(f"{option} {folder}: no such folder; name the folder of the unpacked ISIC download")


def pictures_folder(download: Path, names: Sequence[str]) -> str:
    """The first of the folders `names` that `download` holds; the download itself where it holds none."""
    return str(next((download / name for name in names if name != "." and (download / name).is_dir()), download))


def find_pictures(table: pd.DataFrame) -> list[Picture | None]:
    """The image file of each row, None where there is none: one walk through each folder, not one look-up a row.

    Reads key, folder (its pictures lie anywhere below it, under the key and any of ENDINGS) and file (an exact path
    instead, or missing). Raises UserError where a name has two pictures.
    """
    found: dict[str, dict[str, Picture]] = {}
    for folder in table["folder"].dropna().unique():
        found[folder] = _pictures_below(folder)
    return [
        _exact(file) if isinstance(file, str) else found.get(folder, {}).get(key)
        for key, folder, file in zip(table["key"], table["folder"], table["file"], strict=True)
    ]


def _pictures_below(folder: str) -> dict[str, Picture]:
    found: dict[str, Picture] = {}
    for entry in _walk(folder):
        stem, ending = os.path.splitext(entry.name)  # noqa: PTH122  a Path for each of 10 million files is slow
        if ending.lower() not in ENDINGS or stem.startswith("."):
            continue
        if stem in found:
            raise UserError(f"{stem} has two pictures, {found[stem].path} and {entry.path}: remove one of them")
        status = entry.stat()
        found[stem] = Picture(entry.path, status.st_size, status.st_mtime_ns)
    return found


def _walk(folder: str) -> Iterator["os.DirEntry[str]"]:
    """Every file below `folder`, in the order of their names, so that complaints are the same everywhere."""
    if not os.path.isdir(folder):  # noqa: PTH112
        return
    with os.scandir(folder) as entries:
        listed = sorted(entries, key=lambda entry: entry.name)
    for entry in listed:
        if entry.is_dir():
            yield from _walk(entry.path)
        elif entry.is_file():
            yield entry


def _exact(path: str) -> Picture | None:
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError:
        return None
    return Picture(path, status.st_size, status.st_mtime_ns)
