import numpy as np
import pytest

from loaders.counter import philox, random_words, uniform


# The test vectors that come with the generator (Random123, kat_vectors, philox 4x32 10).
@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_philox_gives_its_published_words(counter: str, key: str, words: str) -> None:
    start = np.array([[int(word, 16)] for word in counter.split()], dtype=np.uint32)
    first, second = (int(word, 16) for word in key.split())
    assert [f"{word:08x}" for word in philox(start, (first, second))[:, 0]] == words.split()


def test_a_draw_depends_on_its_own_index_only() -> None:
    whole = random_words(7, 2, 3, np.arange(1000), 5)
    part = random_words(7, 2, 3, np.array([999, 0, 500]), 5)
    np.testing.assert_array_equal(part, whole[[999, 0, 500]])


def test_more_draws_do_not_move_the_first_ones() -> None:
    index = np.arange(20)
    np.testing.assert_array_equal(random_words(0, 1, 0, index, 3)[:, :8], random_words(0, 1, 0, index, 2))


@pytest.mark.parametrize("other", [(8, 2, 3), (7, 1, 3), (7, 2, 4), (7 + (1 << 40), 2, 3)])
def test_seed_stream_and_epoch_each_change_every_draw(other: tuple[int, int, int]) -> None:
    index = np.arange(200)
    assert not (random_words(7, 2, 3, index, 2) == random_words(*other, index, 2)).any()


def test_indices_beyond_32_bits_give_different_words() -> None:
    index = np.array([5, 5 + (1 << 32), 5 + (1 << 33)])
    assert len(np.unique(random_words(0, 0, 0, index, 1)[:, 0])) == 3


def test_uniform_draws_fill_the_unit_interval_evenly() -> None:
    draws = uniform(random_words(1, 2, 0, np.arange(100_000), 1)).ravel()
    assert draws.min() >= 0
    assert draws.max() < 1
    counts = np.histogram(draws, bins=20, range=(0, 1))[0]
    np.testing.assert_allclose(counts / len(draws), 0.05, atol=5 * np.sqrt(0.05 * 0.95 / len(draws)))


def test_more_counters_than_fit_a_cache_give_the_words_of_each() -> None:
    counters = np.random.default_rng(0).integers(0, 2**32, (4, 20_001), dtype=np.uint32)
    whole = philox(counters, (1, 2))
    for place in (0, 8191, 8192, 20_000):
        np.testing.assert_array_equal(whole[:, place : place + 1], philox(counters[:, place : place + 1], (1, 2)))
