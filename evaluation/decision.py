"""Is acting on the probabilities worth it? Net benefit against treating all and treating none."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from evaluation.bootstrap import bootstrapped_sums
from evaluation.discrimination import Bools, Floats

THRESHOLDS = np.linspace(0.01, 0.5, 50)
"""Probabilities of melanoma from which a lesion would be removed: 1 % (100 removals for a melanoma) to 50 % (2)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class DecisionCurve:
    """Net benefit in melanomas found per sample, at each of K thresholds; the bands are over groups."""

    thresholds: Floats
    """Probabilities [K] from which a sample is treated."""
    model: Floats
    """Net benefit of treating those at or above the threshold [3, K]: value, and the ends of a pointwise 95 % band."""
    treat_all: Floats
    """Of treating all samples [K]; of treating none it is 0."""
    gain: Floats
    """The model's minus that of the better of all and none [3, K], which sees the same draws."""


def decision_curve(
    target: Bools,
    probability: Floats,
    group: ArrayLike,
    thresholds: Floats = THRESHOLDS,
    *,
    draws: int = 1000,
    seed: int = 0,
) -> DecisionCurve:
    """Net benefit = TP/N - FP/N * t/(1 - t) at thresholds t, of probabilities [N].

    A false alarm costs t/(1 - t) of what a melanoma found gains, which is what choosing t means. Source: Vickers,
    Elkin, "Decision Curve Analysis", Medical Decision Making 26(6), 2006, 565-574. It holds for the prevalence of
    these samples.
    """
    odds = thresholds / (1 - thresholds)
    benefit = np.where(target[:, None], 1.0, -odds)
    columns = np.concatenate([benefit * (probability[:, None] >= thresholds), benefit], axis=1)
    columns = np.concatenate([columns, np.ones((len(target), 1))], axis=1)
    drawn = bootstrapped_sums(columns, group, draws=draws, seed=seed)
    model, treat_all, gain = _net_benefits(columns.sum(axis=0)[None], len(thresholds))
    drawn_model, _, drawn_gain = _net_benefits(drawn, len(thresholds))
    return DecisionCurve(
        thresholds=thresholds,
        model=_banded(model, drawn_model),
        treat_all=treat_all[0],
        gain=_banded(gain, drawn_gain),
    )


def _net_benefits(sums: Floats, thresholds: int) -> tuple[Floats, Floats, Floats]:
    """Net benefit [D, K] of the model, of treating all, and the model's gain, from sums [D, 2 K + 1]."""
    means = sums[:, :-1] / sums[:, -1:]
    model, treat_all = means[:, :thresholds], means[:, thresholds:]
    return model, treat_all, model - np.maximum(treat_all, 0)


def _banded(value: Floats, drawn: Floats) -> Floats:
    return np.concatenate([value, np.quantile(drawn, (0.025, 0.975), axis=0)])
