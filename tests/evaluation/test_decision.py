import numpy as np
import pytest
from simulated import calibrated_case

from evaluation.decision import decision_curve


def test_the_net_benefit_is_that_of_counting() -> None:
    target, probability = calibrated_case(500)
    found = decision_curve(target, probability, np.arange(500), np.array([0.1, 0.25, probability[7]]), draws=100)
    for place, threshold in enumerate(found.thresholds):
        odds, benefits = threshold / (1 - threshold), []
        for treated in (probability >= threshold, np.ones(500, dtype=bool)):
            hits = sum(t and d for t, d in zip(target, treated, strict=True))
            alarms = sum(not t and d for t, d in zip(target, treated, strict=True))
            benefits.append(hits / 500 - alarms / 500 * odds)
        assert found.model[0, place] == pytest.approx(benefits[0])
        assert found.treat_all[place] == pytest.approx(benefits[1])
        assert found.gain[0, place] == pytest.approx(benefits[0] - max(benefits[1], 0))


def test_perfect_probabilities_gain_the_prevalence_and_useless_ones_nothing() -> None:
    target, _ = calibrated_case(1000)
    perfect = decision_curve(target, target.astype(float), np.arange(1000), draws=100)
    assert perfect.model[0] == pytest.approx(target.mean())
    useless = decision_curve(target, np.full(1000, target.mean()), np.arange(1000), draws=100)
    assert useless.gain[0] == pytest.approx(0, abs=1e-12)


def test_the_bands_hold_the_curve_and_are_wider_for_groups_of_copies() -> None:
    target, probability = calibrated_case(400)
    grouped = np.repeat(np.arange(400), 4)
    apart, together = (
        decision_curve(np.repeat(target, 4), np.repeat(probability, 4), group, draws=300)
        for group in (np.arange(1600), grouped)
    )
    for found in (apart, together):
        assert (found.model[1] <= found.model[0]).all()
        assert (found.model[0] <= found.model[2]).all()
    assert np.ptp(together.model[1:], axis=0).mean() > 1.7 * np.ptp(apart.model[1:], axis=0).mean()
