import csv
import io
import os
import socket
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
from conftest import picture
from PIL import Image, ImageFile, ImageOps

from configs.prep import Fit
from prep import images, stage
from prep.images import BadImageError, fitted

ENCODING = stage.Encoding(size=32, fit="squash", quality=96, subsampling="4:2:0")


def store_image(data: bytes, size: int, fit: Fit = "squash") -> images.StoredImage:
    return images.store_image(data, size=size, fit=fit, quality=96, subsampling="4:2:0")


def decoded(jpeg: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(jpeg)) as image:
        return np.asarray(image.convert("RGB"), dtype=np.int16)


def upright(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data)) as image:
        return ImageOps.exif_transpose(image).convert("RGB")


def as_jpeg(image: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **{"quality": 96, "subsampling": "4:2:0", **options})
    return file.getvalue()


def resized(data: bytes, size: int) -> Image.Image:
    """The same picture by Pillow alone: upright, RGB, Lanczos."""
    return upright(data).resize((size, size), Image.Resampling.LANCZOS)


def pillow(data: bytes, size: int) -> np.ndarray:
    """The same picture by Pillow alone, compressed as we do it."""
    return decoded(as_jpeg(resized(data, size)))


def test_real_originals_become_what_pillow_makes_of_them(isic_sample: Path) -> None:
    files = sorted((isic_sample / "raw").iterdir())
    assert len(files) == 6
    for path in files:
        data = path.read_bytes()
        stored = store_image(data, size=256)
        exact = resized(data, 256)
        assert np.abs(decoded(stored.jpeg) - decoded(as_jpeg(exact))).mean() < 1.5, path.name
        noise = ((decoded(stored.jpeg) - np.asarray(exact, dtype=np.float64)) ** 2).mean()
        assert 10 * np.log10(255**2 / noise) >= 38, f"{path.name}: peak signal-to-noise ratio in dB"


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about headers
@pytest.mark.parametrize("size", [64, 256])
def test_every_odd_file_becomes_what_pillow_makes_of_it_or_is_refused(isic_sample: Path, size: int) -> None:
    with (isic_sample / "odd" / "manifest.csv").open() as file:
        listed = list(csv.DictReader(file))
    assert len(listed) == 173
    refused = {}
    for row in listed:
        data = (isic_sample / "odd" / row["file"]).read_bytes()
        try:
            stored = store_image(data, size=size)
        except BadImageError as error:
            refused[row["file"]] = str(error)
            continue
        assert row["pillow_decode"] == "ok", f"{row['file']} was taken, though Pillow says {row['pillow_decode']}"
        # The resize is ours on both sides: what is compared is decoding, orientation and colour.
        theirs = simplejpeg.encode_jpeg(fitted(np.asarray(upright(data)), size, "squash"), 96, colorsubsampling="420")
        assert np.abs(decoded(stored.jpeg) - decoded(theirs)).mean() <= 2, row["file"]
        assert (stored.width, stored.height) == upright(data).size
    assert all(refused.values())
    # Of those that Pillow decodes, only files with damage that it does not mention may be refused.
    strict = {
        row["file"]: refused[row["file"]] for row in listed if row["pillow_decode"] == "ok" and row["file"] in refused
    }
    known = ("Corrupt JPEG data", "Bogus", "Inconsistent progression")
    assert all(reason.startswith(known) for reason in strict.values()), strict
    assert len(strict) == 9


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied(orientation: int, format_: str) -> None:
    pixels = np.zeros((40, 60, 3), dtype=np.uint8)
    pixels[:10, :15] = (255, 0, 0)
    pixels[-10:, :15] = (0, 255, 0)
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    options = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}.get(format_, {})
    Image.fromarray(pixels).save(file, format_, exif=exif, **options)
    stored = store_image(file.getvalue(), size=32)
    assert np.abs(decoded(stored.jpeg) - pillow(file.getvalue(), 32)).mean() < 2
    assert (stored.width, stored.height) == ((60, 40) if orientation < 5 else (40, 60))


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_other_colour_modes_become_rgb(mode: str) -> None:
    data = as_jpeg(Image.fromarray(picture(0, 64, 64)).convert(mode))
    stored = store_image(data, size=64)
    assert not stored.copied
    assert np.abs(decoded(stored.jpeg) - pillow(data, 64)).mean() < 2


@pytest.mark.parametrize(
    ("format_", "mode"),
    [
        *(("PNG", mode) for mode in ("RGB", "RGBA", "P", "L")),
        *(("TIFF", mode) for mode in ("RGB", "RGBA", "P", "L", "CMYK", "YCbCr")),
        ("BMP", "RGB"),
        ("WEBP", "RGB"),
        ("WEBP", "RGBA"),
    ],
)
def test_files_of_other_formats_are_taken(format_: str, mode: str) -> None:
    file = io.BytesIO()
    Image.fromarray(picture(0, 90, 70)).convert(mode).save(file, format_)
    stored = store_image(file.getvalue(), size=64)
    assert np.abs(decoded(stored.jpeg) - pillow(file.getvalue(), 64)).mean() < 1
    assert (stored.width, stored.height) == (90, 70)


def test_a_jpeg_of_the_right_size_is_copied_byte_for_byte() -> None:
    for subsampling in ("4:2:0", "4:4:4"):
        data = as_jpeg(Image.fromarray(picture(0, 64, 64)), quality=80, subsampling=subsampling)
        stored = store_image(data, size=64)
        assert stored.copied
        assert stored.jpeg == data


@pytest.mark.parametrize("other", ["progressive", "grey", "turned", "rgb", "larger", "cut"])
def test_what_is_not_baseline_upright_rgb_of_the_right_size_is_never_copied(other: str) -> None:
    image = Image.fromarray(picture(0, 64, 64))
    turned = Image.Exif()
    turned[0x0112] = 3
    data = {
        "progressive": as_jpeg(image, progressive=True),
        "grey": as_jpeg(image.convert("L")),
        "turned": as_jpeg(image, exif=turned),
        "rgb": as_jpeg(image, keep_rgb=True, subsampling="4:4:4"),
        "larger": as_jpeg(image.resize((66, 64))),
        "cut": as_jpeg(image)[:-200],
    }[other]
    if other == "cut":
        with pytest.raises(BadImageError):
            store_image(data, size=64)
        return
    stored = store_image(data, size=64)
    assert not stored.copied
    assert np.abs(decoded(stored.jpeg) - pillow(data, 64)).mean() < 2
    with Image.open(io.BytesIO(stored.jpeg)) as kept:
        assert (kept.mode, kept.size, "progressive" in kept.info, len(kept.getexif())) == ("RGB", (64, 64), False, 0)


def test_fits_squash_crop_and_pad_as_they_say() -> None:
    wide = picture(3, 120, 60)
    image = Image.fromarray(wide)
    lanczos = Image.Resampling.LANCZOS
    np.testing.assert_array_equal(fitted(wide, 60, "squash"), np.asarray(image.resize((60, 60), lanczos)))
    np.testing.assert_array_equal(fitted(wide, 60, "crop"), wide[:, 30:90])
    padded = fitted(wide, 60, "pad")
    np.testing.assert_array_equal(padded[15:45], np.asarray(image.resize((60, 30), lanczos)))
    assert not padded[:15].any()
    assert not padded[45:].any()
    tall = np.ascontiguousarray(wide.transpose(1, 0, 2))
    for fit in ("crop", "pad"):
        # Pillow rounds between its two passes, across and down.
        np.testing.assert_allclose(fitted(tall, 60, fit), fitted(wide, 60, fit).transpose(1, 0, 2).astype(int), atol=1)


def test_the_small_picture_does_not_depend_on_the_stored_size(isic_sample: Path) -> None:
    for path in sorted((isic_sample / "raw").iterdir()):
        data = path.read_bytes()
        first = store_image(data, size=256).thumb
        for size in (64, 300, 512):
            np.testing.assert_array_equal(store_image(data, size=size).thumb, first)


@pytest.mark.parametrize(
    "spoilt",
    ["empty", "text", "gif", "cut", "deep", "overwritten", "cut webp", "cut tiff", "deep tiff", "animation", "pages"],
)
def test_what_is_no_whole_picture_is_refused_with_a_reason(spoilt: str) -> None:
    whole = bytearray(as_jpeg(Image.effect_noise((64, 64), 50).convert("RGB")))
    overwritten = bytes(whole[:900]) + b"\xff\x00\xff\xd9" * 30 + bytes(whole[1020:])
    gif, deep = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (8, 8)).save(gif, "GIF")
    Image.fromarray(np.full((8, 8), 40_000, dtype=np.uint16)).save(deep, "PNG")
    deep_tiff = io.BytesIO()
    Image.fromarray(np.full((8, 8), 40_000, dtype=np.uint16)).save(deep_tiff, "TIFF")
    data = {
        "empty": b"",
        "text": b"no image",
        "gif": gif.getvalue(),
        "cut": bytes(whole[:900]),
        "deep": deep.getvalue(),
        "overwritten": overwritten,
        "cut webp": saved("WEBP", quality=90)[:-200],
        "cut tiff": saved("TIFF", compression="tiff_lzw")[:300] + bytes(500),
        "deep tiff": deep_tiff.getvalue(),
        "animation": saved("WEBP", save_all=True, append_images=[Image.new("RGB", (64, 64))]),
        "pages": saved("TIFF", save_all=True, append_images=[Image.new("RGB", (64, 64))]),
    }[spoilt]
    with pytest.raises(BadImageError, match=r"\w"):
        store_image(data, size=32)


def saved(format_: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture(0, 64, 64)).save(file, format_, **options)
    return file.getvalue()


def webp(kind: bytes, width: int, height: int) -> bytes:
    """The header of a WebP of so many pixels: lossy, lossless or extended."""
    if kind == b"VP8 ":
        sizes = bytes([0x30, 1, 0, 0x9D, 1, 0x2A]) + struct.pack("<HH", width, height)
    elif kind == b"VP8L":
        sizes = b"\x2f" + struct.pack("<I", width - 1 | height - 1 << 14)
    else:
        sizes = bytes(4) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    chunk = kind + struct.pack("<I", 500) + sizes + bytes(500)
    return b"RIFF" + struct.pack("<I", len(chunk) + 4) + b"WEBP" + chunk


def tiff(width: int, height: int) -> bytes:
    """A TIFF whose first directory says so many pixels, in one strip of a few bytes."""
    tags = [(256, width), (257, height), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, height), (279, 4)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<II", 12, 0) + struct.pack("<H", len(tags)) + entries + bytes(4)


def png(width: int, height: int) -> bytes:
    """A PNG whose header says so many pixels and whose data are empty."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b""))
    chunks = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def jpeg(width: int, height: int, before: bytes = b"") -> bytes:
    """The headers of a JPEG of so many pixels, up to its first scan."""
    components = bytes([1, 0x22, 0, 2, 0x11, 0, 3, 0x11, 0])
    frame = b"\xff\xc0" + struct.pack(">HBHHB", 17, 8, height, width, 3) + components
    scan = b"\xff\xda" + struct.pack(">H", 12) + bytes([3, 1, 0, 2, 0x11, 3, 0x11, 0, 63, 0])
    return b"\xff\xd8" + before + frame + scan


def bmp(width: int, height: int) -> bytes:
    """The headers of a BMP of so many pixels."""
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, *(0,) * 6)


ADOBE = b"\xff\xee" + struct.pack(">H", 14) + b"Adobe" + bytes([0, 100, 0, 0, 0, 0, 1])


@pytest.mark.parametrize(
    "data",
    [
        jpeg(60_000, 60_000),
        jpeg(60_000, 60_000, ADOBE),
        jpeg(10_001, 10_000, ADOBE),
        png(20_000, 20_000),
        png(12_000, 9_000),
        bmp(20_000, 20_000),
        bmp(10_001, 10_000),
        webp(b"VP8 ", 16_000, 16_000),
        webp(b"VP8L", 10_001, 10_000),
        webp(b"VP8X", 16_000_000, 1_000),
        tiff(60_000, 60_000),
        tiff(10_001, 10_000),
    ],
)
def test_a_bomb_is_refused_by_its_header_alone(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_decode", lambda *_: pytest.fail("decoded"))
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("decoded"))
    with pytest.raises(BadImageError, match="pixels: more than the 100,000,000 accepted"):
        store_image(data, size=64)


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "BMP", "WEBP", "TIFF"])
def test_an_image_of_just_as_many_pixels_as_are_accepted_is_taken(
    format_: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", 70 * 60)
    file, larger = io.BytesIO(), io.BytesIO()
    Image.fromarray(picture(0, 70, 60)).save(file, format_)
    Image.fromarray(picture(0, 70, 61)).save(larger, format_)
    assert store_image(file.getvalue(), size=32).width == 70
    with pytest.raises(BadImageError, match="70 x 61 pixels: more than"):
        store_image(larger.getvalue(), size=32)


def test_the_limit_may_be_raised_above_pillows_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("decoded"))
    data = bmp(20_000, 20_000)
    with pytest.raises(BadImageError, match="more than the 399,999,999 accepted"):
        images.store_image(data, size=32, fit="squash", quality=96, subsampling="4:2:0", max_pixels=399_999_999)
    assert images._read_header(data, 400_000_000).width == 20_000


def test_memory_that_does_not_suffice_is_a_reason_like_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(stage, "store_image", exhausted)
    path = tmp_path / "a.jpg"
    path.write_bytes(as_jpeg(Image.fromarray(picture(0, 64, 64))))
    with pytest.raises(BadImageError, match="memory does not suffice"):
        stage.read_image(path, ENCODING)


@pytest.mark.skipif(sys.platform == "win32", reason="needs FIFOs and sockets")
@pytest.mark.parametrize("kind", ["fifo", "socket", "device", "folder", "huge"])
def test_what_is_no_regular_file_or_larger_than_its_pixels_is_refused_at_once(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    with socket.socket(socket.AF_UNIX) as listening:
        if kind == "fifo":
            os.mkfifo(path)
        elif kind == "socket":
            listening.bind(str(path))
        elif kind == "device":
            path.symlink_to("/dev/zero")
        elif kind == "folder":
            path.mkdir()
        else:
            path.touch()
            os.truncate(path, 2**40)  # a sparse file
        with pytest.raises(BadImageError, match=r"not a regular file|Is a directory|more than the pixels accepted"):
            stage.read_image(path, ENCODING)
