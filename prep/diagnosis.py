"""The nine diagnosis classes that both years' labels are read as, after the 2020 challenge's winners.

2020 spells diagnoses out and leaves most benign ones unknown; 2019 has eight classes. The four keratoses and lentigines
of 2020 are 2019's BKL. Source: Ha, Liu, Liu, "Identifying Melanoma Images using EfficientNet Ensemble", 2020,
arXiv:2010.05351.
"""

import numpy as np
import numpy.typing as npt
import pyarrow as pa

CLASSES = ("AK", "BCC", "BKL", "DF", "MEL", "NV", "SCC", "VASC", "unknown")
MELANOMA = CLASSES.index("MEL")
_UNKNOWN = CLASSES.index("unknown")
_KERATOSES = ("seborrheic keratosis", "lichenoid keratosis", "solar lentigo", "lentigo nos")
_NAMES = {name.lower(): number for number, name in enumerate(CLASSES)}
_NAMES |= {"nevus": CLASSES.index("NV"), **dict.fromkeys(_KERATOSES, CLASSES.index("BKL"))}


def diagnosis_classes(diagnosis: pa.Array, target: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
    """Indices into CLASSES, int8 [N], of diagnoses as the tables spell them, string [N].

    MEL is exactly target 1: the target decides, whatever the diagnosis says. Other diagnoses are unknown.
    """
    words = diagnosis.dictionary_encode()
    known = [_NAMES.get((name or "").lower(), _UNKNOWN) for name in words.dictionary.to_pylist()]
    numbers = np.array([*known, _UNKNOWN], dtype=np.int8)[words.indices.fill_null(len(known)).to_numpy()]
    return np.where(target == 1, MELANOMA, np.where(numbers == MELANOMA, _UNKNOWN, numbers)).astype(np.int8)
