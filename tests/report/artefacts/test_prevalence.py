"""Odds ratios within sources, by the published example and by simulation; adjusted p values."""

import numpy as np
import pytest

from report.artefacts.prevalence import associations, holm, mantel_haenszel


def naive_odds_ratio(cells: np.ndarray) -> float:
    """Sum of a d / n over the sum of b c / n, cell by cell."""
    above = below = 0.0
    for (d, c), (b, a) in cells:
        total = a + b + c + d
        above, below = above + a * d / total, below + b * c / total
    return above / below


def test_the_odds_ratio_is_mantel_haenszels_with_half_a_sample_added() -> None:
    cells = np.random.default_rng(0).integers(1, 60, (3, 2, 2)).astype(float)
    assert mantel_haenszel(cells)[0] == pytest.approx(np.log(naive_odds_ratio(cells + 0.5)))


def test_the_variance_of_one_stratum_is_woolfs() -> None:
    """For a single table that of Robins, Breslow, Greenland is 1/a + 1/b + 1/c + 1/d."""
    cells = np.array([[[80.0, 20.0], [30.0, 45.0]]])
    assert mantel_haenszel(cells)[1] == pytest.approx((1 / (cells + 0.5)).sum())


def test_a_source_with_one_class_says_nothing() -> None:
    both = np.array([[80.0, 20.0], [30.0, 45.0]])
    alone = np.array([[500.0, 0.0], [100.0, 0.0]])
    assert mantel_haenszel(np.stack([both, alone])) == mantel_haenszel(both[None])
    assert np.isnan(mantel_haenszel(alone[None])).all()


def test_holm_adjusts_as_in_his_paper() -> None:
    """Steps by hand: 4 x 0.01, 3 x 0.02, then never less than the one before; NaN is no test."""
    adjusted = holm([0.02, np.nan, 0.01, 0.03, 0.9])
    np.testing.assert_allclose(adjusted, [0.06, np.nan, 0.04, 0.06, 0.9])


def simulated(samples: int, odds: float, seed: int) -> tuple[np.ndarray, ...]:
    """Five artefacts, of which the first goes with melanoma by `odds`, all with the source; source, target, group."""
    rng = np.random.default_rng(seed)
    source = np.where(np.arange(samples) < samples // 2, 2019, 2020)
    target = rng.random(samples) < np.where(source == 2019, 0.3, 0.05)
    base = np.where(source == 2019, 0.4, 0.1)
    raised = odds * base / (1 + (odds - 1) * base)
    first = rng.random(samples) < np.where(target, raised, base)
    others = rng.random((4, samples)) < base
    return np.vstack([first, others]), target, source, np.arange(samples)


def test_only_what_goes_with_melanoma_within_a_source_is_beyond_noise() -> None:
    found = associations(*simulated(4000, odds=4.0, seed=1), draws=200, seed=0)
    assert [each.beyond_noise for each in found] == [True, False, False, False, False]
    assert found[0].odds_ratio.low < 4.0 < found[0].odds_ratio.high


def test_copies_of_a_lesion_do_not_narrow_the_interval() -> None:
    flagged, target, source, group = simulated(1000, odds=4.0, seed=2)
    once = associations(flagged, target, source, group, draws=300, seed=0)[0].odds_ratio
    many = (np.tile(part, 4) for part in (target, source, group))
    copied = associations(np.tile(flagged, (1, 4)), *many, draws=300, seed=0)[0].odds_ratio
    assert np.log(copied.high / copied.low) == pytest.approx(np.log(once.high / once.low), rel=0.15)


def test_too_few_melanomas_or_flagged_pictures_give_no_ratio() -> None:
    flagged, target, source, group = simulated(1000, odds=4.0, seed=3)
    flagged[1] = False
    found = associations(flagged, target, source, group, draws=100, seed=0)
    assert np.isnan(found[1].odds_ratio.value)
    assert not found[1].beyond_noise
    few = associations(flagged, target & (np.cumsum(target) <= 49), source, group, draws=100, seed=0)
    assert all(np.isnan(each.odds_ratio.value) for each in few)
    none = associations(flagged, np.zeros(1000, dtype=bool), source, group, draws=100, seed=0)
    assert all(np.isnan(each.p) for each in none)
