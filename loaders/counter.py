"""Counter-based random numbers: Philox 4x32-10, vectorised over the counters.

A draw is a function of its key and counter alone, so any rank, thread or machine gets the same one.
Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint32]

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_CHUNK = 8192  # counters at a time, so that their words stay in a core's cache


def philox(counter: Words, key: tuple[int, int]) -> Words:
    """The four random words of each counter: uint32 [4, N] -> uint32 [4, N]. `key` is two 32-bit integers."""
    out = counter.copy()
    for start in range(0, out.shape[1], _CHUNK):
        _philox_inplace(out[:, start : start + _CHUNK], key)
    return out


def _philox_inplace(words: Words, key: tuple[int, int]) -> None:
    first, second = key
    # Each 32 x 32 bit product is read as its two halves, which are adjacent in memory.
    products = np.empty((2, words.shape[1]), dtype="<u8")
    halves = products.view("<u4").reshape(2, -1, 2)
    for _ in range(_ROUNDS):
        np.multiply(words[0], _MULTIPLIERS[0], out=products[0], dtype=np.uint64)
        np.multiply(words[2], _MULTIPLIERS[1], out=products[1], dtype=np.uint64)
        np.bitwise_xor(words[1], np.uint32(first), out=words[1])
        np.bitwise_xor(words[3], np.uint32(second), out=words[3])
        np.bitwise_xor(halves[1, :, 1], words[1], out=words[0])
        np.bitwise_xor(halves[0, :, 1], words[3], out=words[2])
        words[1] = halves[1, :, 0]
        words[3] = halves[0, :, 0]
        first = (first + _KEY_STEPS[0]) & 0xFFFFFFFF
        second = (second + _KEY_STEPS[1]) & 0xFFFFFFFF


def random_words(seed: int, stream: int, epoch: int, index: npt.NDArray[np.int64], blocks: int) -> Words:
    """`blocks` x 4 random words for each index, uint32 [N, 4 * blocks].

    `stream` separates the uses (order, augmentation); seeds and indices may be any 64-bit integers.
    """
    unsigned = index.astype(np.uint64)
    counter = np.empty((4, len(index), blocks), dtype=np.uint32)
    counter[0] = (unsigned & np.uint64(0xFFFFFFFF)).astype(np.uint32)[:, None]
    counter[1] = (unsigned >> np.uint64(32)).astype(np.uint32)[:, None]
    counter[2] = np.uint32(epoch)
    counter[3] = np.arange(blocks, dtype=np.uint32) + np.uint32(stream << 16)
    words = philox(counter.reshape(4, -1), (seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF))
    return words.T.reshape(len(index), 4 * blocks)


def uniform(words: Words) -> npt.NDArray[np.float64]:
    """Words as float64 numbers in [0, 1), of the same shape."""
    return words.astype(np.float64) * 2.0**-32
