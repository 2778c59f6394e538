"""Simulated out-of-fold predictions of which the truth is known."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from evaluation.table import OutOfFold

Floats = NDArray[np.float64]


def calibrated_case(samples: int, seed: int = 0, centre: float = -1.5) -> tuple[NDArray[np.bool_], Floats]:
    """Targets, and the probabilities that they were drawn with."""
    rng = np.random.default_rng(seed)
    probability = expit(rng.normal(centre, 1.5, samples))
    return rng.random(samples) < probability, probability


def out_of_fold(
    samples: int = 1200, *, noise: Sequence[float] = (0.5, 0.7, 1.0), folds: int = 5, seed: int = 0, **other: Any
) -> OutOfFold:
    """A model for each noise, which is added to the true log odds; pairs of samples share a group, and so a fold."""
    rng = np.random.default_rng(seed)
    odds = rng.normal(-1.5, 1.5, samples)
    group = np.arange(samples) // 2
    made = OutOfFold(
        key=np.array([f"s{number}" for number in range(samples)]),
        fold=group % folds,
        source=np.where(group // folds % 2 == 0, 2019, 2020),
        target=rng.random(samples) < expit(odds),
        group=group,
        models=tuple(f"model{number}" for number in range(len(noise))),
        scores=np.stack([expit(odds + rng.normal(0, sd, samples)) for sd in noise]),
    )
    return replace(made, **other)


def without_fold(oof: OutOfFold, model: int, folds: Sequence[int]) -> OutOfFold:
    """The same table, but for a model that has no member for some folds."""
    scores = oof.scores.copy()
    scores[model, np.isin(oof.fold, folds)] = np.nan
    return replace(oof, scores=scores)
