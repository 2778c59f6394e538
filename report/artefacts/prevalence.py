"""Which artefacts go with melanoma, within a source: shares, odds ratios, and which differ from 1 beyond noise."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, nan, sqrt

import numpy as np
from scipy.stats import norm

from evaluation.bootstrap import bootstrapped
from evaluation.discrimination import Bools, Estimate, Floats, wilson_interval
from report.artefacts.detectors import DETECTORS
from report.artefacts.scoring import Indices, pictures
from report.case import Case

FEWEST = 50
"""Melanomas that an odds ratio takes, at least."""
FEWEST_FLAGGED = 10
"""Flagged pictures that it takes, at least."""


@dataclass(frozen=True, kw_only=True)
class Association:
    """How one artefact goes with melanoma."""

    artefact: str
    """Name of the detector."""
    melanoma: Estimate
    """Share of the melanomas that show it, with Wilson's interval."""
    other: Estimate
    """Share of the others."""
    odds_ratio: Estimate
    """Of melanoma with the artefact against without, within a source; NaN where there are too few."""
    p: float
    """Adjusted by Holm for the number of artefacts; NaN likewise."""

    @property
    def beyond_noise(self) -> bool:
        """Whether the odds ratio differs from 1 at 5 %, all artefacts taken together."""
        return self.p < 0.05


def looked_at(case: Case) -> Indices:
    """Numbers of config.pictures samples of the judgement [n] at random, sorted."""
    total = len(case.index)
    drawn = np.random.default_rng(case.config.seed).permutation(total)[: case.config.pictures]
    return np.sort(drawn)


def detected(case: Case, chosen: Indices) -> Bools:
    """Whether each detector flags each of the chosen samples [D, n]."""
    found = [[detector(pixels) for detector in DETECTORS] for pixels in pictures(case.shards, case.index[chosen])]
    return np.array(found, dtype=np.bool_).reshape(len(chosen), len(DETECTORS)).T


def associations(
    flagged: Bools, target: Bools, source: Indices, group: Indices, *, draws: int, seed: int
) -> list[Association]:
    """Each detector's [D, n], in their order; target, source and group [n].

    The interval of the logarithm of the odds ratio is normal, by its standard deviation over draws of groups, or by
    that of independent samples where it is larger.
    """
    raw = [_odds_ratio(row, target, source, group, draws, seed) for row in flagged]
    adjusted = holm([p for _, p in raw])
    return [
        Association(
            artefact=detector.name,
            melanoma=wilson_interval(int((row & target).sum()), int(target.sum())),
            other=wilson_interval(int((row & ~target).sum()), int((~target).sum())),
            odds_ratio=ratio,
            p=p,
        )
        for detector, row, (ratio, _), p in zip(DETECTORS, flagged, raw, adjusted, strict=True)
    ]


def mantel_haenszel(cells: Floats) -> tuple[float, float]:
    """Logarithm of the common odds ratio and its variance, from counts [S, 2, 2]: by stratum, exposure and target.

    Strata without both classes are left out; NaN if none is left. Half a sample is added to every cell of the others,
    so that a cell may be empty. Source: N. Mantel, W. Haenszel, Journal of the National Cancer Institute 22, 1959,
    719-748; the variance: J. Robins, N. Breslow, S. Greenland, Biometrics 42, 1986, 311-323.
    """
    both = cells.sum(axis=1).min(axis=1) > 0
    if not both.any():
        return nan, nan
    (d, c), (b, a) = (cells[both] + 0.5).transpose(1, 2, 0)  # a: exposed melanomas
    total = a + b + c + d
    p, q, r, s = (a + d) / total, (b + c) / total, a * d / total, b * c / total
    above, below = r.sum(), s.sum()
    variance = (p @ r) / above**2 + (p @ s + q @ r) / (above * below) + (q @ s) / below**2
    return float(np.log(above / below)), float(variance / 2)


def holm(p: Sequence[float]) -> list[float]:
    """p values adjusted for their number; NaN stays, and does not count (S. Holm, Scandinavian Journal of Statistics 6,
    1979, 65-70)."""
    values = np.asarray(p, dtype=np.float64)
    order = [place for place in np.argsort(values, kind="stable") if not np.isnan(values[place])]
    adjusted = np.full(len(values), nan)
    reached = 0.0
    for rank, place in enumerate(order):
        reached = max(reached, min(1.0, (len(order) - rank) * values[place]))
        adjusted[place] = reached
    return [float(value) for value in adjusted]


def _odds_ratio(
    exposed: Bools, target: Bools, source: Indices, group: Indices, draws: int, seed: int
) -> tuple[Estimate, float]:
    """The odds ratio with its interval, and its p value."""
    stratum = np.unique(source, return_inverse=True)[1]
    cell = 4 * stratum + 2 * exposed + target
    shape = (int(stratum.max()) + 1, 2, 2)

    def counts(weight: Floats | None = None) -> Floats:
        return np.bincount(cell, weight, np.prod(shape)).reshape(shape).astype(np.float64)

    ratio, variance = mantel_haenszel(counts())
    if target.sum() < FEWEST or exposed.sum() < FEWEST_FLAGGED or np.isnan(ratio):
        return Estimate(nan, nan, nan), nan
    drawn = bootstrapped([lambda weight: mantel_haenszel(counts(weight))[0]], group, draws=draws, seed=seed)
    # An empty cell is empty in every draw, which therefore know less than the formula.
    spread = max(float(np.nanstd(drawn)), sqrt(variance))
    low, high = (exp(ratio + side * norm.ppf(0.975) * spread) for side in (-1, 1))
    return Estimate(exp(ratio), low, high), float(2 * norm.sf(abs(ratio) / spread))
