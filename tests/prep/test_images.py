import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from prep.images import BadImageError, store_image


def decoded(jpeg: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(jpeg)) as image:
        return np.asarray(image.convert("RGB"), dtype=np.int16)


def pillow(data: bytes, size: int) -> np.ndarray:
    """The same picture by Pillow alone: upright, RGB, box filter, JPEG."""
    file = io.BytesIO()
    with Image.open(io.BytesIO(data)) as image:
        upright = ImageOps.exif_transpose(image).convert("RGB")
        upright.resize((size, size), Image.Resampling.BOX).save(file, "JPEG", quality=95, subsampling="4:2:0")
    return decoded(file.getvalue())


def test_real_originals_become_what_pillow_makes_of_them(isic_sample: Path) -> None:
    files = sorted((isic_sample / "raw").iterdir())
    assert len(files) == 6
    for path in files:
        data = path.read_bytes()
        stored = store_image(data, size=256, quality=95)
        # Decoding a 6000 x 4000 original at an eighth of its size is not quite a box filter: 2.01 of 255 there.
        assert np.abs(decoded(stored.jpeg) - pillow(data, 256)).mean() < 2.5, path.name


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    pixels = np.zeros((40, 60, 3), dtype=np.uint8)
    pixels[:10, :15] = (255, 0, 0)
    pixels[-10:, :15] = (0, 255, 0)
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95, subsampling=0, exif=exif)
    stored = store_image(file.getvalue(), size=32, quality=95)
    assert np.abs(decoded(stored.jpeg) - pillow(file.getvalue(), 32)).mean() < 4
    assert (stored.width, stored.height) == ((60, 40) if orientation < 5 else (40, 60))


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_other_colour_modes_become_rgb(mode: str) -> None:
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 255, (4, 4, 3), dtype=np.uint8)).resize((64, 64), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    smooth.convert(mode).save(file, "JPEG", quality=95)
    stored = store_image(file.getvalue(), size=64, quality=95)
    assert np.abs(decoded(stored.jpeg) - pillow(file.getvalue(), 64)).mean() < 3


@pytest.mark.parametrize("spoilt", ["empty", "text", "png", "cut"])
def test_what_is_no_whole_jpeg_is_refused_with_a_reason(spoilt: str) -> None:
    file, png = io.BytesIO(), io.BytesIO()
    Image.effect_noise((64, 64), 50).convert("RGB").save(file, "JPEG")
    Image.new("RGB", (8, 8)).save(png, "PNG")
    data = {"empty": b"", "text": b"no image", "png": png.getvalue(), "cut": file.getvalue()[:900]}[spoilt]
    with pytest.raises(BadImageError, match=r"\w"):
        store_image(data, size=32, quality=95)
