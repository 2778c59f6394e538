"""AUCs that a shortcut does not lift: within sources, without other cancers, and with one score for each lesion."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from evaluation.discrimination import Bools, Floats
from evaluation.ranking import Counts, ratio

OTHER_CANCERS = (
    *("ak", "bcc", "scc"),
    *("actinic keratosis", "basal cell carcinoma", "squamous cell carcinoma"),
)
"""Diagnoses, in lower case, whose removal is right although they are no melanomas."""


def stratified_auc_of(counts: Sequence[Counts]) -> Floats:
    """The AUC over the pairs of a positive and a negative of the same source [D], from the counts of each source.

    AUC = sum_s AUC_s P_s N_s / sum_s P_s N_s, with P_s positives and N_s negatives in source s: the share of pairs
    that are in order, of those that do not mix sources. What tells the sources apart cannot lift it. Ties count one
    half; NaN without any pair. Source: the stratified two-sample statistic of van Elteren, Bulletin of the
    International Statistical Institute 37, 1960, 351-361, here with each pair counting once.
    """
    concordant = np.sum([each.concordant for each in counts], axis=0)
    return ratio(concordant, np.sum([each.pairs for each in counts], axis=0))


def share_of_pairs(target: Bools, source: ArrayLike, positive: object, negative: object) -> float:
    """Share of all pairs whose positive is of the source `positive` and whose negative is of `negative`.

    NaN without both classes. With 2019 and 2020 it says how much of a merged AUC rewards telling the years apart.
    """
    sources = np.asarray(source)
    pairs = float(target.sum()) * float((~target).sum())
    mixed = float((target & (sources == positive)).sum()) * float((~target & (sources == negative)).sum())
    return mixed / pairs if pairs else np.nan


def other_cancers(target: Bools, diagnosis: ArrayLike) -> Bools:
    """Negatives [N] whose diagnosis is one of OTHER_CANCERS, in the words of 2019 or spelled out."""
    words = np.char.strip(np.char.lower(np.asarray(diagnosis).astype(str)))
    found: Bools = ~target & np.isin(words, OTHER_CANCERS)
    return found


def lesion_level(target: Bools, score: Floats, lesion: ArrayLike) -> tuple[Bools, Floats]:
    """Target and score [N] of each lesion in its first row, and a score of NaN in its other rows.

    A lesion's score is the mean over its images, and it is positive where one of them is. Rows without a lesion id,
    that is None, NaN or "", are lesions of their own.
    """
    names = np.asarray(lesion, dtype=object)
    known = np.array([isinstance(name, str) and name != "" for name in names], dtype=np.bool_)
    number = np.arange(len(names))
    _, first, place = np.unique(names[known].astype(str), return_index=True, return_inverse=True)
    number[known] = np.flatnonzero(known)[first][place]
    images = np.bincount(number, minlength=len(names))
    means = np.bincount(number, score, minlength=len(names)) / np.maximum(images, 1)
    return np.bincount(number, target, minlength=len(names)) > 0, np.where(images > 0, means, np.nan)
