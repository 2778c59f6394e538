"""The two meta vectors, float32; FEATURES defines their features, and so their length M.

`reference` is the one that the reference results were reached with; its n_images and file size tell 2019 from 2020 and
so leak the source. `clinical` has only what a clinic knows about a new lesion, and masks for what is missing.
"""

import hashlib
import json

import numpy as np
import numpy.typing as npt
import pandas as pd

from configs.schema import MetaKind
from prep.tables import SITES

FEATURES: dict[MetaKind, tuple[str, ...]] = {
    "clinical": ("sex", "age/90", *SITES, "sex missing", "age missing", "site missing"),
    "reference": ("sex", "age/90", "log1p n_images", "log file_bytes", *SITES, "site missing"),
}
_MEANING = 1  # raise it whenever a value changes its meaning under the same name
_NO_SEX: dict[MetaKind, float] = {"clinical": 0.0, "reference": -1.0}  # where sex is missing or hidden


def meta_vectors(kind: MetaKind, rows: pd.DataFrame) -> npt.NDArray[np.float32]:
    """The meta vectors of `rows`, float32 [N, M], in the order of FEATURES.

    Reads sex, age (years) and site, and for `reference` also n_images (of the patient) and file_bytes (as found).
    """
    sex = rows["sex"].map({"male": 1.0, "female": 0.0}).to_numpy(dtype=np.float64)
    age = rows["age"].to_numpy(dtype=np.float64) / 90.0
    values = {
        "sex": np.where(np.isnan(sex), _NO_SEX[kind], sex),
        "age/90": np.nan_to_num(age, nan=0.0),
        **{site: rows["site"] == site for site in SITES},
        "sex missing": np.isnan(sex),
        "age missing": np.isnan(age),
        "site missing": rows["site"].isna(),
    }
    if kind == "reference":
        values["log1p n_images"] = np.log1p(rows["n_images"].to_numpy(dtype=np.float64))
        values["log file_bytes"] = np.log(rows["file_bytes"].to_numpy(dtype=np.float64))
    return np.stack([np.asarray(values[name], dtype=np.float32) for name in FEATURES[kind]], axis=1)


def meta_digest(kind: MetaKind) -> str:
    """SHA-256 of the definition of vector `kind`; a model must not be given vectors of another digest."""
    return hashlib.sha256(json.dumps([_MEANING, kind, FEATURES[kind]]).encode()).hexdigest()


def images_per_patient(table: pd.DataFrame) -> npt.NDArray[np.int32]:
    """Images of each row's patient over all splits, int32 [N]; 1 without a patient id."""
    counts = table["patient"].map(table["patient"].value_counts())
    return np.asarray(counts.fillna(1), dtype=np.int32)


def hide_clinical(kind: MetaKind, meta: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """A copy of `meta` [N, M] in which sex, age and site are missing and the rest is unchanged."""
    hidden = meta.copy()
    for column, name in enumerate(FEATURES[kind]):
        if name == "sex":
            hidden[:, column] = _NO_SEX[kind]
        elif name in SITES or name == "age/90":
            hidden[:, column] = 0.0
        elif name.endswith(" missing"):
            hidden[:, column] = 1.0
    return hidden
