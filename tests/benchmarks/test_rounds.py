import time
from collections.abc import Iterator
from itertools import count
from statistics import median

import pytest
from scipy.stats import bootstrap

from benchmarks.peers.job import Job
from benchmarks.peers.worker import batches, margin, steady, turn
from benchmarks.rounds import in_turns, is_tie, noise, ratios, spread

MARGIN = 5


def test_a_spread_is_the_median_with_the_range() -> None:
    assert spread([3.0, 1.0, 2.0]) == {"median": 2.0, "low": 1.0, "high": 3.0}


def test_ratios_are_taken_round_by_round() -> None:
    assert ratios([2.0, 30.0, 4.0], [1.0, 10.0, 4.0]) == [2.0, 3.0, 1.0]


def test_everyone_has_one_turn_a_round_and_neighbours_change() -> None:
    turns = count()
    found = in_turns({name: lambda: float(next(turns)) for name in "abcd"}, 6)
    for number in range(6):
        assert sorted(figures[number] for figures in found.values()) == [4 * number + place for place in range(4)]
    followers = {later for number in range(6) for later in found if found[later][number] == found["a"][number] + 1}
    assert len(followers) > 1


def test_a_difference_within_that_of_the_same_thing_twice_is_a_tie() -> None:
    control = noise([100.0, 100.0, 100.0], [97.0, 110.0, 101.0])
    assert control == pytest.approx(0.1)
    ones = [1.0] * 3
    assert is_tie([0.85, 0.93, 0.95], ones, control)
    assert not is_tie([0.85, 0.88, 0.95], ones, control)
    assert is_tie([0.85, 0.88, 1.2], ones, control), "the rounds do not agree"


def test_more_rounds_tell_smaller_differences_apart() -> None:
    found = [0.8, 0.97, 0.98, 0.99, 1.0, 1.01, 1.02, 1.03, 1.3]
    controls = [noise([1.0] * rounds, found[:rounds]) for rounds in (3, 5)]
    assert controls == pytest.approx([0.2, 0.2]), "the worst of few rounds"
    inner = bootstrap((found,), median, confidence_level=0.9, n_resamples=9999, method="percentile", rng=0)
    low, high = inner.confidence_interval
    assert noise([1.0] * 9, found) == pytest.approx(max(1 - low, high - 1), abs=0.011)
    assert noise([1.0] * 9, found) < 0.05, "one bad round of nine counts no longer"


def test_batches_near_the_beginning_and_near_an_epochs_end_are_left_out() -> None:
    batches, start = 60, 30
    waits = [9.0 if number <= MARGIN or abs(number - start) <= MARGIN else 1.0 for number in range(1, batches + 1)]
    moments = [0.0]
    for wait in waits:
        moments.append(moments[-1] + wait)
    found = steady(moments, [0] + [10] * batches, [start], MARGIN)
    kept = batches - MARGIN - (2 * MARGIN + 1)
    assert found == {"images": 10 * kept, "seconds": float(kept)}


def test_where_epochs_are_too_short_their_waits_count() -> None:
    moments = [float(number) for number in range(21)]
    found = steady(moments, [0] + [10] * 20, list(range(1, 21, 4)), MARGIN)
    assert found == {"images": 10 * (20 - MARGIN), "seconds": 20.0 - MARGIN}


def test_a_turn_ends_on_a_set_of_which_an_epoch_has_few_batches() -> None:
    def epochs() -> Iterator[list[tuple[range, None]]]:
        while True:
            time.sleep(0.001)
            yield [(range(10), None)] * 3

    job = Job(shards="", data="", folder="", threads=2)
    seen = turn(batches(epochs(), job), job, 0.02)
    assert seen["seconds"] >= 0.02
    assert seen["images"] == seen["consumed"] - 10 * margin(2)
    assert len(seen["epoch_waits_s"]) > 5
