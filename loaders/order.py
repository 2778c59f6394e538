"""Which rank sees which sample when: order is a function of (seed, epoch), not a state.

The samples of an epoch are in one permutation, the same for every world size; it is split into global batches, and
each rank takes its slice of each:

    permutation   | batch 0           | batch 1           | ... | last, padded      |
    rank 0 of 2   | first half        | first half        |     | first half        |
    rank 1 of 2   |       second half |       second half |     |       second half |

So every rank takes the same number of steps, which collectives need, and every sample counts once: the last
batch is padded with samples from the front, marked as not valid. Where the ranks do not divide a batch, their shares
differ by one sample; the smaller ones are padded with the next rank's first sample, so that all have one shape.
"""

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from configs.errors import UserError
from loaders.counter import random_words

Indices = npt.NDArray[np.int64]

_STREAM = 1
_KEYS_AT_ONCE = 1 << 20  # bounds the memory that hashing needs besides the keys themselves


@dataclass(frozen=True, kw_only=True)
class Partition:
    """How `samples` are shared: global batches of `batch_size`, of which rank `rank` of `world_size` takes a slice.

    pad: whether the last batch is as large as the others; otherwise it is as small as equal shares of the ranks allow,
    so that one rank decodes no sample twice.
    """

    samples: int
    batch_size: int
    rank: int = 0
    world_size: int = 1
    pad: bool = True

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise UserError("there are no samples to read: choose another fold or build the shard set with more images")

    @property
    def steps(self) -> int:
        """Global batches per epoch, the same on every rank."""
        return -(-self.samples // self.batch_size)

    @property
    def local_batch_size(self) -> int:
        """Samples that each rank takes of each global batch, padding included: the largest share."""
        return -(-self.batch_size // self.world_size)

    @property
    def mean_share(self) -> float:
        """Samples of a global batch per rank: what a rank's sum is divided by where the mean over the ranks follows."""
        return self.batch_size / self.world_size

    def positions(self, step: int) -> tuple[Indices, npt.NDArray[np.bool_]]:
        """This rank's positions in the epoch's order at `step`, int64 [b], and whether each counts, bool [b]."""
        start = step * self.batch_size
        left = self.batch_size if self.pad else min(self.batch_size, self.samples - start)
        first, end = (start + left * rank // self.world_size for rank in (self.rank, self.rank + 1))
        places = first + np.arange(-(-left // self.world_size), dtype=np.int64)
        return places % self.samples, places < min(end, self.samples)


def permutation(samples: int, seed: int, epoch: int) -> Indices:
    """The order of an epoch: a permutation of 0 .. samples-1, int64 [samples].

    Sorting keyed hashes, instead of numpy's own shuffle, keeps the order the same for all versions of numpy.
    """
    keys = np.empty(-(-samples // 2) * 2, dtype=np.uint64)
    for start in range(0, len(keys), _KEYS_AT_ONCE):
        part = keys[start : start + _KEYS_AT_ONCE]
        counters = np.arange(start // 2, (start + len(part)) // 2, dtype=np.int64)
        words = random_words(seed, _STREAM, epoch, counters, 1)  # four words, two keys
        part[:] = (words[:, ::2].astype(np.uint64) << np.uint64(32) | words[:, 1::2]).ravel()
    return np.argsort(keys[:samples], kind="stable")


def epoch_orders(samples: int, seed: int, epochs: range) -> Generator[tuple[int, Indices]]:
    """Each of `epochs` with its permutation; the next one is sorted on a thread while this one is in use.

    So even if sorting takes seconds (10 million samples), only the first step of a run waits for it. Must be exhausted
    or closed: the garbage collector may run where a thread cannot be ended.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="epoch-order") as pool:
        following = pool.submit(permutation, samples, seed, epochs.start) if epochs else None
        for epoch in epochs:
            assert following is not None
            order = following.result()
            following = pool.submit(permutation, samples, seed, epoch + 1) if epoch + 1 in epochs else None
            yield epoch, order
