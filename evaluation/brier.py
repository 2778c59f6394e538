"""Where a Brier score comes from: miscalibration, what the probabilities tell apart, and the prevalence."""

from dataclasses import dataclass

import numpy as np

from evaluation.discrimination import Bools, Floats
from evaluation.reliability import bin_numbers


@dataclass(frozen=True, kw_only=True)
class Decomposition:
    """brier = reliability - resolution + uncertainty + within."""

    brier: float
    """Mean squared difference of probability and target."""
    reliability: float
    """Mean squared distance of a bin's mean probability from its share of positives: 0 is right."""
    resolution: float
    """Mean squared distance of a bin's share of positives from that of all: the more the better."""
    uncertainty: float
    """Variance of the targets: the Brier score of the prevalence."""
    within: float
    """What bins hide: variance of the probabilities within them, minus twice their covariance with the targets."""


def decomposition(target: Bools, probability: Floats, bins: int = 10) -> Decomposition:
    """Of probabilities [N], over bins of equal count.

    Murphy, "A New Vector Partition of the Probability Score", Journal of Applied Meteorology 12, 1973, 595-600, holds
    where the probabilities of a bin are equal; `within` holds the two terms that make it exact where they are not:
    Stephenson, Coelho, Jolliffe, Weather and Forecasting 23, 2008, 752-757.
    """
    number = bin_numbers(probability, bins)
    count = np.maximum(np.bincount(number, minlength=bins), 1)
    share, mean = (np.bincount(number, each, minlength=bins) / count for each in (target, probability))
    prevalence = float(target.mean())
    around = probability - mean[number]
    return Decomposition(
        brier=float(np.square(probability - target).mean()),
        reliability=float(np.square(mean - share)[number].mean()),
        resolution=float(np.square(share[number] - prevalence).mean()),
        uncertainty=prevalence * (1 - prevalence),
        within=float(np.square(around).mean() - 2 * (around * (target - share[number])).mean()),
    )
