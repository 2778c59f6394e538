"""Small files whose headers promise pictures that fill the memory."""

import io
import struct
import zlib
from collections.abc import Callable
from functools import partial
from random import Random

import pandas as pd
from PIL import Image

from tests.chaos.case import REFUSED, Case, Kind, Seen, crashed, refused
from tests.chaos.world import lesion_words, prep_words

MEMORY = 400e6
"""Bytes over those at the start that reading a bomb may take; the pictures it promises take gigabytes."""


def _edges(rng: Random, highest: int) -> tuple[int, int]:
    return rng.randint(highest // 2, highest), rng.randint(highest // 2, highest)


def jpeg(rng: Random) -> bytes:
    """A true little JPEG whose frame header has another size."""
    width, height = _edges(rng, 65500)
    found = io.BytesIO()
    Image.new("RGB", (16, 16), "brown").save(found, "JPEG", progressive=rng.random() < 0.5)
    content = bytearray(found.getvalue())
    frame = max(content.find(b"\xff\xc0"), content.find(b"\xff\xc2"))
    content[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(content)


def png(rng: Random) -> bytes:
    """A header and compressed zeros."""
    width, height = _edges(rng, 2 ** rng.choice([16, 24, 30]))
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(bytes(10**6)))]
    found = b"\x89PNG\r\n\x1a\n"
    for name, body in [*chunks, (b"IEND", b"")]:
        found += struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
    return found


def png_text(rng: Random) -> bytes:
    """A small picture with gigabytes of compressed text."""
    found = io.BytesIO()
    Image.new("RGB", (64, 64), "brown").save(found, "PNG")
    text = b"note\0\0" + zlib.compress(bytes(rng.randint(200, 400) * 10**6), 1)
    chunk = struct.pack(">I", len(text)) + b"zTXt" + text + struct.pack(">I", zlib.crc32(b"zTXt" + text))
    return found.getvalue()[:33] + chunk + found.getvalue()[33:]


def webp(rng: Random) -> bytes:
    """An extended header with a canvas of 2^24 x 2^24 at most, then a true little picture."""
    width, height = _edges(rng, rng.choice([16383, 2**24]))
    found = io.BytesIO()
    Image.new("RGB", (16, 16), "brown").save(found, "WEBP")
    canvas = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    body = b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + canvas + found.getvalue()[12:]
    return b"RIFF" + struct.pack("<I", len(body)) + body


def tiff(rng: Random) -> bytes:
    """A directory that promises one strip of a huge picture."""
    width, height = _edges(rng, 2 ** rng.choice([16, 20]))
    bits = 8 + 2 + 9 * 12 + 4
    values = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 3, bits), (259, 3, 1, rng.choice([1, 8]))]
    values += [(262, 3, 1, 2), (273, 4, 1, bits + 6), (277, 3, 1, 3), (278, 4, 1, height), (279, 4, 1, 100)]
    entries = b"".join(struct.pack("<HHII", *each) for each in values)
    return b"II*\0" + struct.pack("<IH", 8, 9) + entries + bytes(4) + struct.pack("<HHH", 8, 8, 8) + rng.randbytes(100)


def bmp(rng: Random) -> bytes:
    """A header of a huge picture, compressed by run lengths."""
    width, height = _edges(rng, 2 ** rng.choice([16, 30]))
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 1, 1, 0, 0)
    return b"BM" + struct.pack("<IHHI", 154, 0, 0, 54) + header + bytes(100)


def gif(rng: Random) -> bytes:
    """A huge screen, in a format that is not read."""
    width, height = _edges(rng, 65500)
    found = io.BytesIO()
    Image.new("P", (16, 16)).save(found, "GIF")
    return found.getvalue()[:6] + struct.pack("<HH", width, height) + found.getvalue()[10:]


def _packed(make: Callable[[Random], bytes], case: Case) -> Seen:
    """A bomb in a download, under the name of a lesion: packed without it, with little memory."""
    downloads, out = case.copy(case.world.downloads), case.place / "set"
    path = case.rng.choice(sorted((downloads / "2020" / "jpeg" / "train").iterdir()))
    path.write_bytes(make(case.rng))
    size = f"{path.stat().st_size} bytes"
    ended = case.run("prep", *prep_words(downloads, out, "--on-bad", "skip"))
    bad = crashed(ended, size) or _heavy(ended.peak)
    if bad is not None:
        return bad
    if ended.code:
        return refused(ended, size, path.name)
    rejected = pd.read_csv(out / "rejected.csv")
    if list(rejected["image_name"]) == [path.stem]:
        return Seen(verdict="ok", words="rejected by name, the others packed", detail=str(rejected["reason"].iloc[0]))
    if rejected.empty and make is png_text:
        return Seen(verdict="ok", words="read, with little memory")
    return Seen(verdict="silent", words="packed", detail=f"{size}: {rejected}")


def _asked(make: Callable[[Random], bytes], case: Case) -> Seen:
    """A bomb given to infer.py --image."""
    path = case.place / "lesion.jpg"
    path.write_bytes(make(case.rng))
    words = lesion_words(path, case.world.runs, case.world.outputs, case.place / "answer.csv")
    ended = case.run("infer", *words)
    bad = crashed(ended, path.name) or _heavy(ended.peak)
    if bad is not None:
        return bad
    if ended.code:
        return refused(ended, "infer --image", path.name)
    if make is png_text:
        return Seen(verdict="ok", words="read, with little memory")
    return Seen(verdict="silent", words="answered", detail=ended.output[-1000:])


def _heavy(peak: int) -> Seen | None:
    if peak < MEMORY:
        return None
    return Seen(verdict="loss", words="memory filled", detail=f"{peak / 1e6:,.0f} MB more than at the start")


_MAKERS = {
    "JPEG": jpeg,
    "PNG": png,
    "WebP": webp,
    "TIFF": tiff,
    "BMP": bmp,
    "GIF": gif,
    "PNG with compressed text": png_text,
}
KINDS = [
    Kind(
        injected=f"{name} bomb, {reader}",
        expected=expected,
        attempt=partial(attempt, make),
        quick=True,
    )
    for reader, expected, attempt in (
        ("before prep", "rejected by name, with at most 400 MB; the others packed", _packed),
        ("before infer", f"{REFUSED}, with at most 400 MB", _asked),
    )
    for name, make in _MAKERS.items()
]
