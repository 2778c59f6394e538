"""The fast image operations against plain implementations."""

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import simplejpeg
from conftest import picture

from configs.schema import AugmentConfig, Border
from loaders.augment import draw_params
from loaders.decode import Changes, changes, decode, finish, load

SIZE = 48
JPEG = memoryview(simplejpeg.encode_jpeg(picture(7, SIZE, SIZE), quality=95))
PLAIN = simplejpeg.decode_jpeg(JPEG)
IDENTITY = np.eye(2, 3)


def drawn(change: Changes) -> np.ndarray:
    """From the JPEG, and from its pixels, which must give the same."""
    results = []
    for start, first in ((decode, JPEG), (load, PLAIN)):
        out = np.full((SIZE, SIZE, 3), 77, dtype=np.uint8)
        start(first, change, out)  # type: ignore[operator]
        finish(change, out)
        results.append(out)
    np.testing.assert_array_equal(*results)
    return results[0]


@pytest.mark.parametrize("code", range(8))
def test_flips_and_transposes_match_numpy(code: int) -> None:
    expected = PLAIN[:, ::-1] if code & 1 else PLAIN
    expected = expected[::-1] if code & 2 else expected
    expected = expected.transpose(1, 0, 2) if code & 4 else expected
    np.testing.assert_array_equal(drawn(Changes(code, IDENTITY, None, [])), expected)


def test_a_warp_is_bilinear_sampling_with_black_outside() -> None:
    matrix = np.array([[0.9, 0.25, -3.3], [-0.2, 1.1, 2.6]])
    x, y = np.meshgrid(np.arange(SIZE), np.arange(SIZE))
    at_x = matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2]
    at_y = matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2]
    framed = np.zeros((SIZE + 2, SIZE + 2, 3))
    framed[1:-1, 1:-1] = PLAIN
    left, top = np.floor(at_x).astype(int), np.floor(at_y).astype(int)
    expected = np.zeros((SIZE, SIZE, 3))
    for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
        weight = (1 - np.abs(at_x - left - dx)) * (1 - np.abs(at_y - top - dy))
        places = np.clip(top + dy + 1, 0, SIZE + 1), np.clip(left + dx + 1, 0, SIZE + 1)
        expected += weight[..., None] * framed[places]
    difference = np.abs(drawn(Changes(-1, matrix, None, [])).astype(float) - expected)
    assert difference.mean() < 1  # OpenCV interpolates in steps of 1/32 pixel
    assert difference.max() < 16
    assert (expected == 0).all(axis=2).any()


@pytest.mark.parametrize("border", get_args(Border))
def test_a_shift_shows_the_border(border: Border) -> None:
    """Corners included, and as far as twice the image away, where the mirror images of mirror images lie."""
    for right, down in ((20, 9), (-31, 47), (2 * SIZE, -2 * SIZE)):
        framed = np.pad(PLAIN, [(100, 100), (100, 100), (0, 0)], mode=border)  # numpy's names are ours
        expected = framed[100 + down : 100 + down + SIZE, 100 + right : 100 + right + SIZE]
        matrix = np.array([[1.0, 0.0, right], [0.0, 1.0, down]])
        np.testing.assert_array_equal(drawn(Changes(-1, matrix, None, [], border)), expected)


@pytest.mark.parametrize("code", range(-1, 8))
def test_colours_and_holes_are_applied_after_the_geometry(code: int) -> None:
    colour = np.array([[1.2, 0.1, 0, -9], [0, 0.8, 0.3, 4], [0.1, 0, 1, 30]], dtype=np.float32)
    moved = drawn(Changes(code, IDENTITY, None, [])).astype(float)
    expected = (moved @ colour[:, :3].T.astype(float) + colour[:, 3]).clip(0, 255)
    expected[5:9, 2:20] = 0
    assert np.abs(drawn(Changes(code, IDENTITY, colour, [[2, 5, 20, 9]])) - expected).max() <= 1


def test_changes_are_those_of_the_parameters_at_the_places() -> None:
    config = replace(AugmentConfig(), coarse_dropout=1.0)
    params = draw_params(config, seed=0, epoch=0, index=np.arange(50), size=SIZE)
    for place, change in zip(range(10, 30), changes(params, range(10, 30), SIZE), strict=True):
        assert change.symmetry == params.symmetry[place]
        assert (change.colour is not None) == params.recolour[place]
        kept = params.boxes[place][params.boxes[place].any(axis=1)]
        assert change.boxes == kept.tolist()
        # The centred matrix and the pixel matrix map a point to the same place.
        centre = (SIZE - 1) / 2
        point = params.affine[place, :, :2] @ (np.array([3.0, 40.0]) - centre) + params.affine[place, :, 2] + centre
        np.testing.assert_allclose(change.matrix @ [3.0, 40.0, 1.0], point, atol=1e-3)


def test_without_parameters_images_are_unchanged() -> None:
    for change in changes(None, range(3), SIZE):
        np.testing.assert_array_equal(drawn(change), PLAIN)
