import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loaders.order import Partition, epoch_orders, permutation


@given(samples=st.integers(1, 300), per_rank=st.integers(1, 9), world=st.integers(1, 5))
def test_every_sample_counts_once_in_equal_steps_on_every_rank(samples: int, per_rank: int, world: int) -> None:
    parts = [
        Partition(samples=samples, batch_size=per_rank * world, rank=rank, world_size=world) for rank in range(world)
    ]
    assert len({part.steps for part in parts}) == 1
    counted = []
    for part in parts:
        for step in range(part.steps):
            places, valid = part.positions(step)
            assert len(places) == per_rank
            counted += places[valid].tolist()
            assert ((places >= 0) & (places < samples)).all()
    assert sorted(counted) == list(range(samples))


@given(samples=st.integers(1, 300), per_rank=st.integers(1, 9), world=st.integers(1, 5))
def test_without_padding_every_sample_comes_once_in_equal_shares(samples: int, per_rank: int, world: int) -> None:
    parts = [
        Partition(samples=samples, batch_size=per_rank * world, rank=rank, world_size=world, pad=False)
        for rank in range(world)
    ]
    counted, padding = [], 0
    for step in range(parts[0].steps):
        found = [part.positions(step) for part in parts]
        assert len({len(places) for places, _ in found}) == 1
        for places, valid in found:
            counted += places[valid].tolist()
            padding += int((~valid).sum())
    assert counted == list(range(samples))
    assert padding < world


@given(samples=st.integers(1, 200), batch=st.sampled_from([4, 8, 12]), world=st.sampled_from([2, 4]))
def test_ranks_split_the_same_global_batches(samples: int, batch: int, world: int) -> None:
    whole = Partition(samples=samples, batch_size=batch)
    parts = [Partition(samples=samples, batch_size=batch, rank=rank, world_size=world) for rank in range(world)]
    for step in range(whole.steps):
        for which in (0, 1):
            joined = np.concatenate([part.positions(step)[which] for part in parts])
            np.testing.assert_array_equal(joined, whole.positions(step)[which])


@given(samples=st.integers(1, 500), seed=st.integers(0, 2**40), epoch=st.integers(0, 1000))
def test_the_order_is_a_permutation(samples: int, seed: int, epoch: int) -> None:
    np.testing.assert_array_equal(np.sort(permutation(samples, seed, epoch)), np.arange(samples))


def test_the_order_is_reproducible_and_differs_for_each_seed_and_epoch() -> None:
    order = permutation(1000, 3, 5)
    np.testing.assert_array_equal(order, permutation(1000, 3, 5))
    for other in (permutation(1000, 4, 5), permutation(1000, 3, 6)):
        assert abs(np.corrcoef(order, other)[0, 1]) < 0.15
        assert (order == other).mean() < 0.02


def test_position_and_sample_are_uncorrelated() -> None:
    order = permutation(6000, 0, 0)
    assert abs(np.corrcoef(order, np.arange(6000))[0, 1]) < 0.06


@given(samples=st.integers(1, 200), batch=st.integers(1, 40), world=st.integers(1, 9))
def test_any_number_of_ranks_shares_a_batch_but_for_one_sample(samples: int, batch: int, world: int) -> None:
    whole = Partition(samples=samples, batch_size=batch)
    parts = [Partition(samples=samples, batch_size=batch, rank=rank, world_size=world) for rank in range(world)]
    assert sum(part.mean_share for part in parts) == pytest.approx(batch)
    for step in range(whole.steps):
        everything, counts = whole.positions(step)
        found = [part.positions(step) for part in parts]
        assert {len(places) for places, _ in found} == {whole.batch_size // world + (batch % world > 0)}
        np.testing.assert_array_equal(np.concatenate([places[valid] for places, valid in found]), everything[counts])
        if counts.all():
            shares = [int(valid.sum()) for _, valid in found]
            assert max(shares) - min(shares) <= 1
            for places, _ in found:  # padding is of the same batch, and of another rank's share
                assert np.isin(places, everything).all()
                assert len(np.unique(places)) == len(places)


@given(samples=st.integers(1, 200), seed=st.integers(0, 2**40), first=st.integers(0, 5), count=st.integers(0, 3))
def test_orders_sorted_ahead_are_those_of_their_epochs(samples: int, seed: int, first: int, count: int) -> None:
    orders = list(epoch_orders(samples, seed, range(first, first + count)))
    assert [epoch for epoch, _ in orders] == list(range(first, first + count))
    for epoch, order in orders:
        np.testing.assert_array_equal(order, permutation(samples, seed, epoch))


def test_hashing_in_parts_gives_one_order(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = permutation(1001, 3, 5)
    monkeypatch.setattr("loaders.order._KEYS_AT_ONCE", 64)
    np.testing.assert_array_equal(permutation(1001, 3, 5), whole)
