"""What a download folder contains: which tables, and the image file of each name.

Downloads differ: Kaggle's and the ISIC archive's names, nested folders, images in class folders, sets that others
resized. So each table is searched by all its known names, images by their own below the first known folder that exists.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from configs.errors import UserError, nearest_path
from configs.files import is_there

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")

TRAIN_2020 = ("train.csv", "ISIC_2020_Training_GroundTruth_v2.csv", "ISIC_2020_Training_GroundTruth.csv")
TEST_2020 = ("test.csv", "ISIC_2020_Test_Metadata.csv")
PAIRS_2020 = ("ISIC_2020_Training_Duplicates.csv",)
LESIONS_2020 = ("ISIC_2020_Training_GroundTruth_v2.csv",)
TRUTH_2019 = ("ISIC_2019_Training_GroundTruth.csv",)
META_2019 = ("ISIC_2019_Training_Metadata.csv",)
RESIZED_2019 = ("train.csv",)
# Folders of images, the likeliest first; else they are below the download itself, directly or in class folders.
TRAIN_PICTURES_2020 = ("jpeg/train", "ISIC_2020_Training_Input", "ISIC_2020_Training_JPEG", "train")
TEST_PICTURES_2020 = ("jpeg/test", "ISIC_2020_Test_Input", "ISIC_2020_Test_JPEG", "test")
PICTURES_2019 = ("ISIC_2019_Training_Input", "train")


def find_table(folder: Path, names: Sequence[str]) -> Path | None:
    """The first of the files `names` that exists in `folder`."""
    return next((folder / name for name in names if is_there(folder / name)), None)


def require_folder(folder: Path, option: str) -> None:
    """Raise UserError where `folder` does not exist."""
    if not folder.is_dir():
        near = nearest_path(folder) or "; give the folder of the unpacked ISIC download"
        raise UserError(f"{option} {folder}: no such folder{near}")


def pictures_folder(download: Path, names: Sequence[str]) -> str:
    """The first of the folders `names` that exists in `download`; else the download itself."""
    return str(next((download / name for name in names if (download / name).is_dir()), download))


def find_pictures(table: pd.DataFrame) -> pd.DataFrame:
    """The image file of each row: path (str, missing where there is none), file_bytes (-1) and changed_ns (0).

    Reads key, folder (the file is anywhere below it, named key plus one of ENDINGS) and file (an exact path instead,
    or missing). Walks each folder once instead of looking up each row. Raises UserError where a name has two files.
    """
    path: npt.NDArray[np.object_] = np.full(len(table), None, dtype=object)
    size, changed = np.full(len(table), -1, dtype=np.int64), np.zeros(len(table), dtype=np.int64)
    exact = table["file"].notna().to_numpy()
    for row in np.flatnonzero(exact):
        file = table["file"].iloc[row]
        with suppress(OSError):
            status = os.stat(file)  # noqa: PTH116
            path[row], size[row], changed[row] = file, status.st_size, status.st_mtime_ns
    for folder in table["folder"][~exact].dropna().unique():
        rows = np.flatnonzero(~exact & (table["folder"] == folder).to_numpy())
        number = dict(zip(table["key"].iloc[rows], rows.tolist(), strict=True))
        for entry in _walk(folder):
            stem, ending = os.path.splitext(entry.name)  # noqa: PTH122  a Path for each of 10 million files is slow
            row = number.get(stem, -1)
            if row < 0 or ending.lower() not in ENDINGS:
                continue
            if path[row] is not None:
                both = " and ".join(sorted((str(path[row]), entry.path)))
                raise UserError(f"{stem} has two image files, {both}: remove one of them")
            status = entry.stat()
            path[row], size[row], changed[row] = entry.path, status.st_size, status.st_mtime_ns
    found = {"path": pd.Series(path, dtype="str"), "file_bytes": size, "changed_ns": changed}
    return pd.DataFrame(found).set_axis(table.index)


def _walk(folder: str) -> Iterator["os.DirEntry[str]"]:
    """Every file below `folder`."""
    if not os.path.isdir(folder):  # noqa: PTH112
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                is_file, is_folder = entry.is_file(), entry.is_dir()
            except OSError:  # a link to itself: its picture is missing
                continue
            if is_folder:
                yield from _walk(entry.path)
            elif is_file:
                yield entry
