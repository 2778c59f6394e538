"""AUC over pairs of the same stratum only (a source; a fold, whose scores alone are comparable), in closed form.

    area = stratified_auc(target, score, source)
    estimate = clustered_interval(area.value, area.influence, group)

The influence of a sample is what the AUC owes to it, so that differences and ratios of AUCs of the same samples have
intervals too: by the difference, or by the delta method.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.stats import rankdata

from evaluation.discrimination import Estimate, Floats


@dataclass(frozen=True, kw_only=True, eq=False)
class Area:
    """An AUC over the pairs of a melanoma and another that share a stratum."""

    value: float
    """Share of the pairs in which the melanoma scores higher, ties one half; NaN without pairs."""
    influence: Floats
    """Influence of each sample [N]: they add to 0, and 0 is that of a sample in no pair; NaN without pairs."""
    pairs: int
    """How many pairs there are."""


def stratified_auc(target: ArrayLike, score: ArrayLike, stratum: ArrayLike) -> Area:
    """The AUC over pairs within strata, each of which counts by its pairs.

    target [N] is 0 or 1, score [N] any real number or NaN for a sample to leave out, stratum [N] any names. With a
    single stratum it is `auc`. The influence is that of E. LeDell, M. Petersen, M. van der Laan, "Computationally
    efficient confidence intervals for cross-validated area under the ROC curve estimates", Electronic Journal of
    Statistics 9, 2015, 1583-1607, with folds weighted by their pairs.
    """
    truth, scores = np.asarray(target).astype(bool), np.asarray(score, dtype=np.float64)
    known = np.flatnonzero(~np.isnan(scores))
    beaten, others = np.zeros(len(truth)), np.zeros(len(truth))  # of each sample: pairs in the right order, all pairs
    for _, rows in pd.Series(known).groupby(np.asarray(stratum)[known]):
        own = rows.to_numpy()
        positive, negative = own[truth[own]], own[~truth[own]]
        others[positive], others[negative] = len(negative), len(positive)
        overall = rankdata(scores[np.concatenate([positive, negative])])
        beaten[positive] = overall[: len(positive)] - rankdata(scores[positive])
        beaten[negative] = len(positive) - (overall[len(positive) :] - rankdata(scores[negative]))
    pairs = int(others[truth].sum())
    if not pairs:
        return Area(value=math.nan, influence=np.full(len(truth), np.nan), pairs=0)
    value = float(beaten[truth].sum() / pairs)
    return Area(value=value, influence=(beaten - value * others) / pairs, pairs=pairs)


def clustered_interval(value: float, influence: Floats, group: ArrayLike, level: float = 0.95) -> Estimate:
    """`value` with its normal interval from influences [N] that are added up in each group [N]; NaN for one group.

    Source: N. A. Obuchowski, "Nonparametric Analysis of Clustered ROC Curve Data", Biometrics 53, 1997, 567-578.
    """
    number = np.unique(np.asarray(group).astype(str), return_inverse=True)[1]
    summed = np.bincount(number, weights=influence)
    groups = len(summed)
    if groups < 2:
        return Estimate(value, math.nan, math.nan)
    deviation = math.sqrt(float(np.square(summed).sum()) * groups / (groups - 1))
    half_width = NormalDist().inv_cdf((1 + level) / 2) * deviation
    return Estimate(value, value - half_width, value + half_width)
