"""What is known about new images, typed as prep types the downloads' tables; prep.metadata makes their meta vectors.

Columns, one row an image, in the order of its paths: sex and site (str) and age (float64, years), missing where
unknown; n_images (int64, of the patient; 1 without a patient id) and file_bytes (int64; 1, whose logarithm is 0, where
the file is empty or cannot be read).
"""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd

from configs.errors import UserError, nearest_path
from prep.columns import KEY, PATIENT, PERSON
from prep.csvfile import read_csv, require_rows
from prep.layout import ENDINGS
from prep.metadata import images_per_patient
from prep.tables import typed_person

Paths = Sequence[str | Path]


def facts_of_options(
    paths: Paths, *, sex: str | None = None, age: float | str | None = None, site: str | None = None
) -> pd.DataFrame:
    """The same person and site for all images; None, "" or, for a word, "unknown" is missing.

    Raises UserError, which names the option, for an age outside 0 to 120 and for an unknown sex or site.
    """
    given = {"sex": sex, "age_approx": age, "site": site}
    words = {name: None if value is None else str(value).strip() or None for name, value in given.items()}
    row = pd.DataFrame({name: pd.Series([word], dtype="str") for name, word in words.items()})
    row.attrs["age_approx"] = "age"  # the option's name
    facts = typed_person(row, None).loc[np.zeros(len(paths), dtype=np.int64)].reset_index(drop=True)
    return facts.assign(n_images=np.int64(1), file_bytes=_file_bytes(paths))


def facts_of_csv(paths: Paths, csv: Path) -> pd.DataFrame:
    """The facts that a CSV gives under the headers of the downloads: image (also image_name or isic_id), and optionally
    sex, age, site and patient.

    Its rows are found by the file's name, without folder and ending, and counted for n_images. Images without a row
    have no facts; the further column in_csv (bool) tells which have one. Raises UserError for a wrong value with its
    line, for two rows or two files of one name, for a CSV that names none of the images, and for one without facts.
    """
    if not csv.exists():
        remedy = nearest_path(csv) or "; give a CSV with the columns image, sex, age and site"
        raise UserError(f"{csv}: no such file{remedy}")
    columns = {"image": KEY["image_name"]} | PERSON | PATIENT
    rows = read_csv(csv, columns, [*PERSON, *PATIENT], pattern=".+")
    names = rows["image"].map(_name)
    require_rows(~names.duplicated(), rows["image"], csv, rows.attrs["image"], "each name once, whatever the ending")
    facts = typed_person(rows, csv)
    if facts.isna().all(axis=None):
        raise UserError(f"{csv} gives no sex, age or site: name its columns image, sex, age and site")
    facts = facts.assign(n_images=images_per_patient(rows.rename(columns={"patient_id": "patient"})))
    wanted = pd.Series([_name(path) for path in paths], dtype="str")
    if wanted.duplicated().any():
        first = wanted[wanted.duplicated()].iloc[0]
        raise UserError(f"two image files are named {first}, and {csv} tells images by their name: rename one of them")
    found = wanted.isin(names)
    if not found.any():
        first = f"its first is {names.iloc[0]}, the first image {wanted.iloc[0]}"
        raise UserError(f"{csv} names none of the {len(paths):,} images: {first}; names are compared without endings")
    facts = facts.set_axis(names).reindex(wanted).reset_index(drop=True)
    counts = facts["n_images"].fillna(1).astype("int64")
    return facts.assign(n_images=counts, file_bytes=_file_bytes(paths), in_csv=found)


def _name(path: str | Path) -> str:
    """The name of an image without its folder and its ending."""
    name = Path(path)
    return name.stem if name.suffix.lower() in ENDINGS else name.name


def _file_bytes(paths: Paths) -> np.ndarray:
    sizes = np.ones(len(paths), dtype=np.int64)
    for row, path in enumerate(paths):
        with suppress(OSError):
            sizes[row] = max(1, Path(path).stat().st_size)
    return sizes
