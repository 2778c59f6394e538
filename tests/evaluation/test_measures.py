from statistics import NormalDist

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from evaluation.measures import GRID, LESIONS, MERGED, NO_OTHER_CANCERS, WITHIN, Scored, curves, discriminations


def scored(samples: int = 600, **other: object) -> Scored:
    rng = np.random.default_rng(0)
    target = rng.random(samples) < 0.3
    given = {
        "target": target,
        "score": target + rng.normal(size=samples),
        "group": np.arange(samples) // 2,
        "source": np.where(np.arange(samples) % 3 == 0, "2019", "2020"),
        "diagnosis": np.where(target, "MEL", np.where(rng.random(samples) < 0.2, "BCC", "NV")),
        "lesion": np.array([f"L{row // 4}" if row < samples / 2 else "" for row in range(samples)], dtype=object),
    }
    return Scored(**{**given, **other})


def test_each_part_has_the_figures_of_its_rows() -> None:
    case = scored()
    found = {each.part: each for each in discriminations(case, draws=200)}
    assert list(found) == [MERGED, "2020", "2019", WITHIN, NO_OTHER_CANCERS, LESIONS]
    rows_of = {
        MERGED: np.ones(600, dtype=bool),
        "2019": case.source == "2019",
        "2020": case.source == "2020",
        NO_OTHER_CANCERS: case.diagnosis != "BCC",
    }
    for part, rows in rows_of.items():
        each, target, score = found[part], case.target[rows], case.score[rows]
        assert (each.rows, each.positives) == (rows.sum(), target.sum())
        assert each.auc.value == pytest.approx(roc_auc_score(target, score))
        assert each.delong.value == pytest.approx(each.auc.value)
        assert each.average_precision.value == pytest.approx(average_precision_score(target, score))
        for estimate in (each.auc, each.partial_auc, each.average_precision):
            assert estimate.low < estimate.value < estimate.high
    assert found[LESIONS].rows == 75 + 300


def test_what_is_not_known_or_does_not_differ_is_left_out() -> None:
    plain = scored(source=np.full(600, "all"), diagnosis=None, lesion=None)
    assert [each.part for each in discriminations(plain, draws=50)] == [MERGED]
    alike = scored(source=np.full(600, "2020"), diagnosis=np.full(600, "NV"), lesion=np.full(600, "", dtype=object))
    assert [each.part for each in discriminations(alike, draws=50)] == [MERGED]


def test_a_source_without_melanoma_has_no_figures_and_the_rest_have() -> None:
    case = scored()
    found = {
        each.part: each for each in discriminations(scored(target=case.target & (case.source == "2020")), draws=50)
    }
    assert np.isnan(found["2019"].auc.value)
    assert found[WITHIN].auc.value == pytest.approx(found["2020"].auc.value)


def test_the_curves_are_those_of_sklearn_within_their_bands() -> None:
    case = scored()
    found = curves(case, draws=200)
    fpr, tpr, _ = roc_curve(case.target, case.score, drop_intermediate=False)
    assert found.sensitivity[0] == pytest.approx(np.interp(GRID, fpr, tpr))
    precision, recall, _ = precision_recall_curve(case.target, case.score)
    assert found.precision[0, -1] == pytest.approx(precision[recall == 1][-1])
    for value, low, high in (found.sensitivity[:, 1:-1], found.precision[:, 5:-1]):
        assert (low <= value).all()
        assert (value <= high).all()


@pytest.mark.long
def test_the_band_covers_the_true_curve_at_its_nominal_level() -> None:
    """Binormal scores at a false-alarm rate of 0.2; samples are in pairs of the same patient."""
    normal, covered = NormalDist(), []
    place, truth = 20, 1 - normal.cdf(normal.inv_cdf(0.8) - 1)
    for seed in range(200):
        rng = np.random.default_rng(seed)
        target = rng.random(800) < 0.3
        case = scored(800, target=target, score=target + rng.normal(size=800))
        low, high = curves(case, draws=200, seed=seed).sensitivity[1:, place]
        covered.append(low <= truth <= high)
    assert 0.9 <= np.mean(covered) <= 0.99
