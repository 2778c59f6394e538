import numpy as np
import pyarrow as pa

from prep.diagnosis import CLASSES, diagnosis_classes


def classes(*cases: tuple[str | None, int]) -> list[str]:
    words, target = zip(*cases, strict=True)
    found = diagnosis_classes(pa.array(words, pa.string()), np.array(target, dtype=np.int8))
    assert found.dtype == np.int8
    return [CLASSES[number] for number in found]


def test_both_years_words_become_the_nine_classes() -> None:
    assert classes(("MEL", 1), ("melanoma", 1), ("NV", 0), ("nevus", 0)) == ["MEL", "MEL", "NV", "NV"]
    keratoses = ("seborrheic keratosis", "lichenoid keratosis", "solar lentigo", "lentigo NOS", "BKL")
    assert classes(*((name, 0) for name in keratoses)) == ["BKL"] * 5
    rest = ("AK", "BCC", "DF", "SCC", "VASC")
    assert classes(*((name, 0) for name in rest)) == list(rest)


def test_what_no_class_has_is_unknown() -> None:
    assert classes(("cafe-au-lait macule", 0), (None, 0), ("", 0), (None, -1)) == ["unknown"] * 4


def test_the_target_decides_what_a_melanoma_is() -> None:
    assert classes(("melanoma", 0), ("nevus", 1), (None, 1)) == ["unknown", "MEL", "MEL"]
