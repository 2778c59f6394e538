import math

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from evaluation.ranking import Ranking
from evaluation.strata import lesion_level, other_cancers, share_of_pairs, stratified_auc_of


def case(samples: int = 300) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Melanoma is frequent in 2019."""
    rng = np.random.default_rng(0)
    source = np.where(rng.random(samples) < 0.4, 2019, 2020)
    target = rng.random(samples) < np.where(source == 2019, 0.5, 0.1)
    return target, np.round(target + rng.normal(size=samples), 1), source


def stratified(target: np.ndarray, score: np.ndarray, source: np.ndarray) -> float:
    parts = [Ranking(target, np.where(source == each, score, np.nan), np.arange(len(target))) for each in set(source)]
    return float(stratified_auc_of([part.counts(np.ones((len(target), 1))) for part in parts])[0])


def test_the_stratified_auc_is_the_share_of_pairs_within_sources_that_are_in_order() -> None:
    target, score, source = case()
    won = pairs = 0.0
    for i in np.flatnonzero(target):
        for j in np.flatnonzero(~target):
            if source[i] == source[j]:
                won += float(score[i] > score[j]) + 0.5 * float(score[i] == score[j])
                pairs += 1
    assert stratified(target, score, source) == pytest.approx(won / pairs)


def test_what_tells_the_sources_apart_does_not_lift_the_stratified_auc() -> None:
    target, score, source = case()
    shifted = score + (source == 2019)
    assert roc_auc_score(target, shifted) > roc_auc_score(target, score)
    assert stratified(target, shifted, source) == pytest.approx(stratified(target, score, source), abs=1e-3)
    assert stratified(target, (source == 2019).astype(float), source) == 0.5


def test_sources_of_one_class_each_have_no_pairs() -> None:
    source = np.array([2019, 2019, 2020])
    assert math.isnan(stratified(np.array([True, True, False]), np.array([0.1, 0.2, 0.3]), source))


def test_the_share_of_pairs_counts_them() -> None:
    target, _, source = case()
    positive, negative = source[target], source[~target]
    expected = np.mean((positive[:, None] == 2019) & (negative == 2020))
    assert share_of_pairs(target, source, 2019, 2020) == pytest.approx(expected)
    assert math.isnan(share_of_pairs(np.zeros(3, dtype=bool), np.array([2019] * 3), 2019, 2020))


def test_more_than_half_of_the_pairs_of_the_real_merge_mix_the_years() -> None:
    """58,457 images: 4,522 melanomas of 25,331 in 2019, 584 of 33,126 in 2020."""
    target = np.repeat([True, False, True, False], [4522, 20809, 584, 32542])
    source = np.repeat([2019, 2020], [25331, 33126])
    assert share_of_pairs(target, source, 2019, 2020) == pytest.approx(0.54, abs=0.005)


def test_other_cancers_are_negatives_in_the_words_of_either_year() -> None:
    words = ["BCC", "scc ", "Actinic Keratosis", "basal cell carcinoma", "NV", "unknown", "", "BCC"]
    target = np.array([False] * 7 + [True])
    assert other_cancers(target, words).tolist() == [True] * 4 + [False] * 4


def test_a_lesion_has_the_mean_of_its_images_and_a_row_without_one_is_its_own() -> None:
    rng = np.random.default_rng(0)
    lesion = np.array([f"L{number}" for number in rng.integers(0, 40, 100)], dtype=object)
    lesion[::5], lesion[1::10], lesion[2::10] = "", None, np.nan
    target, score = rng.random(100) < 0.3, rng.random(100)
    names = [name if isinstance(name, str) and name else f"row{row}" for row, name in enumerate(lesion)]
    by_lesion = pd.DataFrame({"name": names, "target": target, "score": score}).groupby("name", sort=False)
    found_target, found = lesion_level(target, score, lesion)
    kept = ~np.isnan(found)
    assert found[kept] == pytest.approx(by_lesion["score"].mean().to_numpy())
    assert found_target[kept].tolist() == by_lesion["target"].any().tolist()
