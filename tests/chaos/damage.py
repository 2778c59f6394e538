"""Ways to damage the bytes of a file, each at a random place."""

import random
from pathlib import Path

BLOCK = 512


def flip(content: bytes, rng: random.Random) -> tuple[bytes, str]:
    """One bit flipped, as by bad memory or a bad cable."""
    place, bit = rng.randrange(len(content)), rng.randrange(8)
    damaged = bytearray(content)
    damaged[place] ^= 1 << bit
    return bytes(damaged), f"bit {bit} of byte {place} of {len(content)} flipped"


def cut(content: bytes, rng: random.Random) -> tuple[bytes, str]:
    """Cut short, as by a full disk; sometimes to nothing."""
    left = rng.choice([0, 1, rng.randrange(len(content)), len(content) - 1])
    return content[:left], f"cut to {left} of {len(content)} bytes"


def overwrite(content: bytes, rng: random.Random) -> tuple[bytes, str]:
    """A block of zeros, of noise or of another part of the file, as after a power cut; or more bytes at the end."""
    start = rng.randrange(len(content))
    stop = min(len(content), start + rng.choice([1, 16, BLOCK, 8 * BLOCK]))
    other = rng.randrange(len(content))
    what, block = rng.choice(
        [
            ("zeros", bytes(stop - start)),
            ("noise", rng.randbytes(stop - start)),
            ("another part", (content * 2)[other : other + stop - start]),
        ]
    )
    if rng.random() < 0.1:
        return content + block, f"{len(block)} bytes of {what} at the end"
    return content[:start] + block + content[stop:], f"bytes {start} to {stop} of {len(content)} are {what}"


WAYS = {"one bit flipped": flip, "cut short": cut, "a block overwritten": overwrite}


def damage(path: Path, way: str, rng: random.Random) -> str:
    """Damage a file; returns what was done. Its content differs afterwards."""
    content = path.read_bytes()
    for _ in range(100):
        damaged, what = WAYS[way](content, rng)
        if damaged != content:
            path.write_bytes(damaged)
            return f"{path.name}: {what}"
    raise AssertionError(f"{path} cannot be damaged by: {way}")
