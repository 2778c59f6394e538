"""One image file as found -> one square JPEG as stored."""

import io
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, UnidentifiedImageError

Pixels = npt.NDArray[np.uint8]

_ORIENTATION_TAG = 0x0112
# EXIF orientation -> what makes the picture upright (source: EXIF 2.3, table 6).
_UPRIGHT = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.transpose(1, 0, 2),
    6: lambda pixels: pixels.transpose(1, 0, 2)[:, ::-1],
    7: lambda pixels: pixels.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda pixels: pixels.transpose(1, 0, 2)[::-1],
}


class BadImageError(ValueError):
    """An image that cannot be decoded whole; the message is the reason."""


@dataclass(frozen=True, kw_only=True)
class StoredImage:
    """A finished image: `jpeg` bytes of size x size pixels, and the upright original's width and height."""

    jpeg: bytes
    width: int
    height: int


def store_image(data: bytes, *, size: int, quality: int) -> StoredImage:
    """Decode a JPEG, turn it upright, squash it to size x size and encode it as baseline 4:2:0.

    The original is decoded whole, at the smallest DCT scale that still covers `size`. Raises BadImageError.
    """
    kind, orientation, (width, height) = _header(data)
    if kind != "JPEG":
        raise BadImageError(f"not a JPEG but a {kind}")
    pixels = _decode(data, size)
    if orientation in _UPRIGHT:
        pixels = np.ascontiguousarray(_UPRIGHT[orientation](pixels))
        width, height = (height, width) if orientation >= 5 else (width, height)
    if pixels.shape[:2] != (size, size):
        enlarged = pixels.shape[0] < size or pixels.shape[1] < size
        method = cv2.INTER_LINEAR if enlarged else cv2.INTER_AREA
        pixels = np.asarray(cv2.resize(pixels, (size, size), interpolation=method), dtype=np.uint8)
    jpeg = simplejpeg.encode_jpeg(pixels, quality=quality, colorspace="RGB", colorsubsampling="420")
    return StoredImage(jpeg=jpeg, width=width, height=height)


def _header(data: bytes) -> tuple[str, int, tuple[int, int]]:
    """Format, EXIF orientation and size of the picture as it lies in the file, without decoding it."""
    if not data:
        raise BadImageError("the file is empty")
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.format or "?", int(image.getexif().get(_ORIENTATION_TAG, 1)), image.size
    except UnidentifiedImageError as error:
        raise BadImageError("not an image") from error
    # Pillow raises many types on broken headers; each means the same to us.
    except Exception as error:
        raise BadImageError(f"unreadable header: {error}") from error


def _decode(data: bytes, size: int) -> Pixels:
    """RGB uint8 [H, W, 3]; H and W are at least `size` where the original's are."""
    try:
        # fmt: off
        return np.asarray(simplejpeg.decode_jpeg(
            data, colorspace="RGB", min_height=size, min_width=size, strict=True), dtype=np.uint8)
        # fmt: on
    except ValueError as error:
        if "colorspace" not in str(error).lower() and "color conversion" not in str(error).lower():
            raise BadImageError(str(error)) from error
    try:
        with Image.open(io.BytesIO(data)) as image:  # CMYK and the like, which libjpeg-turbo does not turn to RGB
            return np.asarray(image.convert("RGB"), dtype=np.uint8)
    except Exception as error:
        raise BadImageError(str(error)) from error
