"""The nine diagnosis classes that both years' labels are read as, after the 2020 challenge's winners.

2020 spells diagnoses out and leaves most benign ones unknown; 2019 has eight classes. The four keratoses and lentigines
of 2020 are 2019's BKL. Source: Ha, Liu, Liu, "Identifying Melanoma Images using EfficientNet Ensemble", 2020,
arXiv:2010.05351.
"""

import re

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

CLASSES = ("AK", "BCC", "BKL", "DF", "MEL", "NV", "SCC", "VASC", "unknown")
MELANOMA = CLASSES.index("MEL")
_UNKNOWN = CLASSES.index("unknown")
_KERATOSES = ("seborrheic keratosis", "lichenoid keratosis", "solar lentigo", "lentigo nos")
_NAMES = {name.lower(): number for number, name in enumerate(CLASSES)}
_NAMES |= {"nevus": CLASSES.index("NV"), **dict.fromkeys(_KERATOSES, CLASSES.index("BKL"))}
_NAMES |= {"akiec": CLASSES.index("AK"), "ack": CLASSES.index("AK")}  # HAM10000 and MILK10k; PAD-UFES-20
_NAMES |= {"nev": CLASSES.index("NV"), "sek": CLASSES.index("BKL"), "sccka": CLASSES.index("SCC")}
# What words say of melanoma. Whatever matches none of these, or says both, is not decided.
_MELANOMA = re.compile(r"^mel$|\bmelanomas?\b|\blentigo maligna\b")
_DOUBT = re.compile(r"\?|\b(no|not|non|without|vs|versus|or|possible|probable|suspected|suspicious|history|rule)\b")
_OTHER = re.compile(
    r"^(nv|nev|bcc|scc|sccka|ak|ack|akiec|bkl|sek|df|vasc|inf|ben_oth|mal_oth)$|^benign\b|\bna?ev(us|i)\b|keratos[ie]s"
    r"|carcinoma|fibroma|angioma|angiokeratoma|\bvascular lesion|\blentigo\b(?! maligna)|acanthoma|\bcysts?\b"
    r"|\bwarts?\b|verruca|^malignant (epidermal|adnexal|soft tissue)|caf[eé]-au-lait|melanotic macule"
    r"|inflammatory|\bscar\b"
)


def diagnosis_classes(diagnosis: pa.Array, target: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
    """Indices into CLASSES, int8 [N], of diagnoses as the tables spell them, string [N].

    MEL is exactly target 1: the target decides, whatever the diagnosis says. Other diagnoses are unknown.
    """
    words = diagnosis.dictionary_encode()
    known = [_NAMES.get((name or "").lower(), _UNKNOWN) for name in words.dictionary.to_pylist()]
    numbers = np.array([*known, _UNKNOWN], dtype=np.int8)[words.indices.fill_null(len(known)).to_numpy()]
    return np.where(target == 1, MELANOMA, np.where(numbers == MELANOMA, _UNKNOWN, numbers)).astype(np.int8)


def melanoma_of_words(words: pd.DataFrame) -> pd.Series:
    """Whether the words of each row, any number of columns, say melanoma (1), something else (0), or neither (NaN).

    A row whose words contradict each other, or doubt, says neither; so does malignant alone. float64 [N].
    """
    verdicts = words.apply(lambda column: column.map(_verdict, na_action="ignore"))
    yes, no, doubt = (verdicts.isin([verdict]).any(axis=1) for verdict in ("yes", "no", "doubt"))
    return pd.Series(np.where((yes != no) & ~doubt, yes.astype("float64"), np.nan), index=words.index)


def _verdict(words: str) -> str:
    text = words.lower()
    melanoma, other = bool(_MELANOMA.search(text)), bool(_OTHER.search(text))
    if melanoma and (other or _DOUBT.search(text)):
        return "doubt"
    return "yes" if melanoma else "no" if other and "?" not in text else ""
