import numpy as np
import pandas as pd

from configs.schema import MetaKind
from prep.metadata import FEATURES, hide_clinical, images_per_patient, meta_vectors

ROWS = pd.DataFrame(
    {
        "sex": ["male", "female", None],
        "age": [45.0, np.nan, 90.0],
        "site": ["torso", None, "oral/genital"],
        "n_images": [7, 1, 1],
        "file_bytes": [1000, 20, 3],
    }
)


def named(kind: MetaKind) -> list[dict[str, float]]:
    return [dict(zip(FEATURES[kind], row.tolist(), strict=True)) for row in meta_vectors(kind, ROWS)]


def test_the_reference_vector_follows_its_definition() -> None:
    first, second, third = named("reference")
    assert first["sex"] == 1
    assert second["sex"] == 0
    assert third["sex"] == -1
    assert first["age/90"] == 0.5
    assert second["age/90"] == 0
    assert third["age/90"] == 1
    np.testing.assert_allclose(first["log1p n_images"], np.log(8), rtol=1e-6)
    np.testing.assert_allclose(first["log file_bytes"], np.log(1000), rtol=1e-6)
    assert [first["torso"], first["site missing"], second["site missing"], third["oral/genital"]] == [1, 0, 1, 1]


def test_the_clinical_vector_masks_what_is_missing_and_leaks_no_source() -> None:
    first, second, third = named("clinical")
    assert [first["sex missing"], second["age missing"], second["site missing"], third["sex missing"]] == [0, 1, 1, 1]
    assert third["sex"] == 0
    assert second["age/90"] == 0
    changed = ROWS.assign(n_images=99, file_bytes=99)
    np.testing.assert_array_equal(meta_vectors("clinical", ROWS), meta_vectors("clinical", changed))


def test_both_vectors_have_eleven_float32_features() -> None:
    for kind in FEATURES:
        vectors = meta_vectors(kind, ROWS)
        assert vectors.shape == (3, 11)
        assert vectors.dtype == np.float32


def test_hidden_metadata_equals_missing_metadata() -> None:
    blank = ROWS.assign(sex=None, age=np.nan, site=None)
    for kind in FEATURES:
        np.testing.assert_array_equal(hide_clinical(kind, meta_vectors(kind, ROWS)), meta_vectors(kind, blank))


def test_n_images_counts_a_patient_over_all_splits_and_one_without_patient() -> None:
    table = pd.DataFrame(
        {"patient": ["P1", "P1", "P2", None, None], "split": ["train", "test", "train", "train", "test"]}
    )
    assert images_per_patient(table).tolist() == [2, 2, 1, 1, 1]
