"""Counter-based random numbers: Philox 4x32-10, vectorised over the counters.

A draw is a function of its key and counter alone, so any rank, thread or machine gets the same one.
Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint32]

_MULTIPLIERS = np.array([[0xD2511F53], [0xCD9E8D57]], dtype=np.uint64)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)


def philox(counter: Words, key: tuple[int, int]) -> Words:
    """The four random words of each counter: uint32 [4, N] -> uint32 [4, N]. `key` is two 32-bit integers."""
    words = counter.astype(np.uint64)
    even, odd = words[[0, 2]], words[[1, 3]]
    first, second = key
    for _ in range(_ROUNDS):
        product = even * _MULTIPLIERS
        high, low = product >> _HALF, product & _LOW
        keys = np.array([[first], [second]], dtype=np.uint64)
        even, odd = high[::-1] ^ odd ^ keys, low[::-1]
        first = (first + _KEY_STEPS[0]) & 0xFFFFFFFF
        second = (second + _KEY_STEPS[1]) & 0xFFFFFFFF
    return np.stack([even[0], odd[0], even[1], odd[1]]).astype(np.uint32)


def random_words(seed: int, stream: int, epoch: int, index: npt.NDArray[np.int64], blocks: int) -> Words:
    """`blocks` x 4 random words for each index, uint32 [N, 4 * blocks].

    `stream` keeps uses apart (order, augmentation); seeds and indices may be any 64-bit integers.
    """
    unsigned = index.astype(np.uint64)
    counter = np.empty((4, len(index), blocks), dtype=np.uint32)
    counter[0] = (unsigned & _LOW).astype(np.uint32)[:, None]
    counter[1] = (unsigned >> _HALF).astype(np.uint32)[:, None]
    counter[2] = np.uint32(epoch)
    counter[3] = np.arange(blocks, dtype=np.uint32) + np.uint32(stream << 16)
    words = philox(counter.reshape(4, -1), (seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF))
    return words.T.reshape(len(index), 4 * blocks)


def uniform(words: Words) -> npt.NDArray[np.float64]:
    """Words as float64 numbers in [0, 1), of the same shape."""
    return words.astype(np.float64) * 2.0**-32
