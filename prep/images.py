"""One image file as found -> one square JPEG as stored, and a grey thumbnail to recognise duplicates by."""

import io
import struct
import threading
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, UnidentifiedImageError

from configs.machine import MAX_MEGAPIXELS
from configs.prep import Fit, Subsampling
from prep.quiet import no_warnings

Pixels = npt.NDArray[np.uint8]

THUMB = 32
"""Edge of the thumbnail, in pixels."""
MAX_PIXELS = round(MAX_MEGAPIXELS * 1e6)
"""Pixels that an image may have, unless a caller says otherwise."""
# The thumbnail is made from a decode of at least this edge, so that duplicates and folds are the same for every --size.
_LOOK = 256
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF")
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # how one begins
_ORIENTATION_TAG = 0x0112
# EXIF orientation -> what makes the picture upright (source: EXIF 2.3, table 6).
_UPRIGHT = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: pixels.swapaxes(0, 1)[:, ::-1],
    7: lambda pixels: pixels.swapaxes(0, 1)[::-1, ::-1],
    8: lambda pixels: pixels.swapaxes(0, 1)[::-1],
}
# Second bytes of JPEG markers: frames are C0 to CF without the tables (C4), the extension (C8) and the arithmetic
# conditioning (CC); EXIF (E1) may rotate the picture, Adobe (EE) declare other colours; some have no length field.
_BASELINE = 0xC0
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_TELLING = frozenset({0xE1, 0xEE})
_BARE = frozenset({0x00, 0x01, 0xFF, *range(0xD0, 0xDB)})
_memory = threading.local()


class BadImageError(ValueError):
    """An image that cannot be decoded completely; the message is the reason."""


@dataclass(frozen=True, kw_only=True)
class StoredImage:
    """A finished image: `jpeg` bytes of size x size pixels, the upright original's width and height, whether the
    file was copied as it is, and `thumb`, uint8 [32, 32], the original squashed and grey."""

    jpeg: bytes
    width: int
    height: int
    copied: bool
    thumb: Pixels


@dataclass(frozen=True, kw_only=True)
class _Header:
    kind: str
    mode: str
    width: int
    height: int
    orientation: int
    baseline: bool  # as we store them: baseline, upright, three channels of luma and chroma


def store_image(
    data: bytes, *, size: int, fit: Fit, quality: int, subsampling: Subsampling, max_pixels: int | None = None
) -> StoredImage:
    """Decode an image file completely, turn it upright, bring it to size x size and encode it as a baseline JPEG.

    A JPEG that is upright, baseline, three-channel and of the right size is copied byte for byte. Raises BadImageError,
    before it decodes anything where the header says more than `max_pixels` (None: MAX_PIXELS).
    """
    header = _read_header(data, MAX_PIXELS if max_pixels is None else max_pixels)
    pixels, extent = _decode(data, header, _LOOK)
    thumb = _upright(_thumb(pixels), header)
    if size > _LOOK:
        pixels, extent = _decode(data, header, size)
    copied = header.baseline and (header.width, header.height) == (size, size)
    if not copied:
        upright = np.ascontiguousarray(_upright(fitted(pixels, size, fit, extent), header))
        data = simplejpeg.encode_jpeg(upright, quality=quality, colorsubsampling=subsampling.replace(":", ""))
    width, height = (header.width, header.height) if header.orientation < 5 else (header.height, header.width)
    return StoredImage(jpeg=bytes(data), width=width, height=height, copied=copied, thumb=thumb)


def fitted(pixels: Pixels, size: int, fit: Fit, extent: tuple[float, float] | None = None) -> Pixels:
    """RGB uint8 [H, W, 3] -> [size, size, 3]: squashed, its middle square, or whole between black bars (Lanczos).

    `extent` is the width and height that the picture really fills, in pixels: a decoder that scales by n/8 rounds them
    up, and taking the rounded ones would stretch the picture.
    """
    if pixels.shape[:2] == (size, size):
        return pixels
    wide, high = extent or (pixels.shape[1], pixels.shape[0])
    image = Image.fromarray(pixels)
    if fit == "pad":
        inner = (max(1, round(size * wide / max(wide, high))), max(1, round(size * high / max(wide, high))))
        canvas = Image.new("RGB", (size, size))
        resized = image.resize(inner, Image.Resampling.LANCZOS, box=(0, 0, wide, high))
        canvas.paste(resized, ((size - inner[0]) // 2, (size - inner[1]) // 2))
        return np.asarray(canvas)
    edge = min(wide, high)
    left, top = ((wide - edge) / 2, (high - edge) / 2) if fit == "crop" else (0.0, 0.0)
    box = (left, top, wide - left, high - top)
    return np.asarray(image.resize((size, size), Image.Resampling.LANCZOS, box=box))


def _read_header(data: bytes, max_pixels: int) -> _Header:
    """The file's header, without decoding the pixels."""
    if not data:
        raise BadImageError("the file is empty")
    frame, telling = _frame(data)
    baseline = frame is not None and data[frame + 1] == _BASELINE
    # Most JPEGs are plain: for these, Pillow takes as long as everything else but decoding and encoding.
    if frame is not None and not telling:
        bits, height, width, channels = struct.unpack_from(">BHHB", data, frame + 4)
        if bits == 8 and channels == 3 and width and height:
            _require_size(width, height, max_pixels)
            return _Header(kind="JPEG", mode="RGB", width=width, height=height, orientation=1, baseline=baseline)
    _require_size(*_webp_size(data), max_pixels)  # first: Pillow opens a WebP with memory for its pixels
    Image.MAX_IMAGE_PIXELS = None  # Pillow's own limit would hold below a larger one of ours
    try:
        with no_warnings, Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            _require_size(image.width, image.height, max_pixels)  # first: getexif decodes a PNG
            if image.format in ("WEBP", "TIFF") and getattr(image, "is_animated", False):
                raise BadImageError("holds several pictures: save one of them as a file of its own")
            # Pillow turns a TIFF upright itself, and says its size as it is then.
            orientation = 1 if image.format == "TIFF" else image.getexif().get(_ORIENTATION_TAG, 1)
            straight = image.mode == "RGB" and orientation not in _UPRIGHT and image.info.get("adobe_transform") != 0
            return _Header(
                kind="JPEG" if image.format == "MPO" else str(image.format),  # its first picture is a plain JPEG
                mode=image.mode,
                width=image.width,
                height=image.height,
                orientation=orientation if orientation in _UPRIGHT else 1,
                baseline=straight and baseline,
            )
    except UnidentifiedImageError as error:
        if data.startswith(_TIFF):
            raise BadImageError("a TIFF that is damaged, or not of 8 bits a channel: save it as PNG") from error
        raise BadImageError("not an image, or none of JPEG, PNG, BMP, WebP and TIFF") from error
    except BadImageError:
        raise
    # Pillow raises many types of errors on broken headers; all mean the same here.
    except Exception as error:
        raise BadImageError(f"unreadable header: {_line(error)}") from error


def _require_size(width: int, height: int, max_pixels: int) -> None:
    """Raise BadImageError where the header says more than `max_pixels`, before memory is taken for them."""
    if width * height > max_pixels:
        raise BadImageError(
            f"{width:,} x {height:,} pixels: more than the {max_pixels:,} accepted (--max-megapixels raises the limit)"
        )


def _webp_size(data: bytes) -> tuple[int, int]:
    """Width and height by the header of a WebP (RFC 9649, section 2); 0, 0 for what is none."""
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP" or len(data) < 30:
        return 0, 0
    if data[12:16] == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if data[12:16] == b"VP8L":
        packed = int.from_bytes(data[21:25], "little")
        return 1 + (packed & 0x3FFF), 1 + (packed >> 14 & 0x3FFF)
    return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF


def _frame(data: bytes) -> tuple[int | None, bool]:
    """Where a JPEG's frame header starts, if it is found, and whether an EXIF or Adobe segment came before it."""
    place, telling = 2, False
    while data[:2] == b"\xff\xd8" and place + 19 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker in _FRAMES:
            return place, telling
        if marker in _BARE:
            break
        telling |= marker in _TELLING
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return None, telling


def _decode(data: bytes, header: _Header, cover: int) -> tuple[Pixels, tuple[float, float]]:
    """RGB uint8 [H, W, 3] as in the file, valid until this thread's next call, and the width and height that it fills.

    A JPEG is decoded at the smallest of libjpeg-turbo's scales n/8 that hits `cover` exactly or exceeds it by a
    quarter: Lanczos resampling, the better low-pass filter, does the rest.
    """
    whole = (float(header.width), float(header.height))
    if header.kind != "JPEG":
        return _decode_other(data, header), whole
    edges = {header.width, header.height}
    eighths = next((n for n in range(1, 8) if edges == {8 * cover / n} or min(edges) * n >= 8 * 1.25 * cover), 8)
    wide, high = (-(-edge * eighths // 8) for edge in (header.width, header.height))
    # Strict: any warning of libjpeg-turbo (truncated, overwritten, extra bytes) is an error. Other decoders go on with
    # grey or shifted blocks, which nobody would notice among 58,457 images.
    try:
        pixels = simplejpeg.decode_jpeg(
            data, colorspace="RGB", min_height=high, min_width=wide, strict=True, buffer=_scratch(3 * high * wide)
        )
    except ValueError as error:
        if "subsampling" in str(error):
            # TurboJPEG cannot decode, for example, CMYK as Pillow writes it. Pillow can, and detects truncation.
            return _decode_other(data, header), whole
        raise BadImageError(_line(error)) from error
    return np.asarray(pixels, dtype=np.uint8), (whole[0] * eighths / 8, whole[1] * eighths / 8)


def _scratch(size: int) -> Pixels:
    """This thread's memory to decode into: fresh pages for every image cost a twentieth of its decoding."""
    if not hasattr(_memory, "pixels") or _memory.pixels.size < size:
        _memory.pixels = np.empty(size, dtype=np.uint8)
    return np.asarray(_memory.pixels)


def _decode_other(data: bytes, header: _Header) -> Pixels:
    if header.mode.startswith(("I", "F")):
        raise BadImageError(f"more than 8 bits a channel (mode {header.mode}): save it with 8")
    try:
        with no_warnings, Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            return np.asarray(image.convert("RGB"), dtype=np.uint8)
    except Exception as error:
        raise BadImageError(_line(error)) from error


def _upright(pixels: Pixels, header: _Header) -> Pixels:
    return pixels if header.orientation == 1 else np.ascontiguousarray(_UPRIGHT[header.orientation](pixels))


def _thumb(pixels: Pixels) -> Pixels:
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    while min(grey.shape) >= 4 * THUMB:  # OpenCV averages fastest when it halves
        grey = cv2.resize(grey, (grey.shape[1] // 2, grey.shape[0] // 2), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(grey, (THUMB, THUMB), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
