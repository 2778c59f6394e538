from dataclasses import replace

import numpy as np
import pytest

from configs.schema import AugmentConfig
from loaders.augment import AugmentParams, draw_params
from loaders.decode import changes, finish, load

CONFIG = AugmentConfig()
OFF = replace(
    CONFIG,
    hflip=0.0,
    vflip=0.0,
    quarter_turn=0.0,
    shift_scale_rotate=0.0,
    hue_saturation_value=0.0,
    brightness_contrast=0.0,
    coarse_dropout=0.0,
    meta_dropout=0.0,
)
MANY = np.arange(20_000)


def draw(config: AugmentConfig, index: np.ndarray = MANY, size: int = 64, epoch: int = 0) -> AugmentParams:
    return draw_params(config, seed=1, epoch=epoch, index=index, size=size)


def gradient(size: int = 32) -> np.ndarray:
    y, x = np.mgrid[0:size, 0:size]
    return np.stack([x * 7 % 256, y * 5 % 256, (x + 2 * y) % 256], axis=2).astype(np.uint8)


def shown(pixels: np.ndarray, params: AugmentParams, place: int) -> np.ndarray:
    """The image that the CPU path renders with the parameters at `place`."""
    (change,) = changes(params, range(place, place + 1), len(pixels))
    out = np.empty_like(pixels)
    load(pixels, change, out)
    finish(change, out)
    return out


def test_parameters_do_not_depend_on_the_batch_they_are_drawn_in() -> None:
    whole, part = draw(CONFIG), draw(CONFIG, np.array([19_999, 7]))
    for name in vars(whole):
        np.testing.assert_array_equal(getattr(part, name), getattr(whole, name)[[19_999, 7]])


def test_another_epoch_draws_other_parameters() -> None:
    assert (draw(CONFIG).affine == draw(CONFIG, epoch=1).affine).all(axis=(1, 2)).mean() < 0.2


def test_with_everything_off_images_are_unchanged() -> None:
    params = draw(OFF, np.arange(4))
    np.testing.assert_array_equal(shown(gradient(64), params, 0), gradient(64))
    assert not params.hide_meta.any()


@pytest.mark.parametrize(
    ("field", "happened"),
    [
        ("shift_scale_rotate", lambda params: params.symmetry < 0),
        ("coarse_dropout", lambda params: params.boxes.any(axis=(1, 2))),
        ("hue_saturation_value", lambda params: params.recolour),
        ("brightness_contrast", lambda params: params.recolour),
        ("meta_dropout", lambda params: params.hide_meta),
        ("hflip", lambda params: params.symmetry == 1),
        ("vflip", lambda params: params.symmetry == 2),
    ],
)
def test_each_change_has_its_probability(field: str, happened: object) -> None:
    share = happened(draw(replace(OFF, **{field: 0.3}))).mean()  # type: ignore[operator]
    assert abs(share - 0.3) < 5 * np.sqrt(0.3 * 0.7 / len(MANY))


def test_all_eight_flips_and_turns_are_equally_likely() -> None:
    codes = draw(replace(OFF, hflip=0.5, vflip=0.5, quarter_turn=0.5)).symmetry
    np.testing.assert_allclose(np.bincount(codes, minlength=8) / len(MANY), [3 / 16] * 4 + [1 / 16] * 4, atol=0.01)


@pytest.mark.parametrize("turned", [0.0, 1.0])
def test_a_flip_by_copy_is_the_flip_by_its_matrix(turned: float) -> None:
    params = draw(replace(OFF, hflip=0.5, vflip=0.5, quarter_turn=turned), np.arange(40))
    warped = replace(params, symmetry=np.full(40, -1, dtype=np.int8))
    for place in range(40):
        np.testing.assert_array_equal(shown(gradient(), params, place), shown(gradient(), warped, place))
    assert len(set(params.symmetry.tolist())) >= 4


def test_quarter_turns_are_numpys_rotations() -> None:
    params = draw(replace(OFF, quarter_turn=1.0), np.arange(60))
    made = {shown(gradient(), params, place).tobytes() for place in range(60)}
    assert made == {np.rot90(gradient(), turns).tobytes() for turns in range(4)}


def test_the_warp_stays_within_its_ranges_and_reaches_them() -> None:
    config = replace(OFF, shift_scale_rotate=1.0)
    affine = draw(config, size=100).affine.astype(np.float64)
    determinant = affine[:, 0, 0] * affine[:, 1, 1] - affine[:, 0, 1] * affine[:, 1, 0]
    scale = 1 / np.sqrt(determinant)
    angle = np.rad2deg(np.arctan2(affine[:, 0, 1], affine[:, 0, 0]))
    # The output point that shows the input's centre is where the centre was shifted to.
    shift = -np.linalg.solve(affine[:, :, :2], affine[:, :, 2:])[:, :, 0] / 100
    for values, limit, middle in ((scale, 0.1, 1), (angle, 45, 0), (shift, 0.0625, 0)):
        assert np.abs(values - middle).max() <= limit * 1.0001
        assert np.abs(values - middle).max() > limit * 0.99
        assert abs((values - middle).mean()) < limit * 0.03


def test_hue_and_saturation_keep_grey_and_brightness_shifts_all_channels_alike() -> None:
    colour = draw(replace(OFF, hue_saturation_value=1.0, value=0.0)).colour.astype(np.float64)
    grey = colour @ np.array([100.0, 100.0, 100.0, 1.0])
    np.testing.assert_allclose(grey, 100.0, atol=0.15)
    colour = draw(replace(OFF, brightness_contrast=1.0, contrast=0.0)).colour.astype(np.float64)
    moved = (colour @ np.array([100.0, 50.0, 10.0, 1.0])) - np.array([100.0, 50.0, 10.0])
    np.testing.assert_allclose(moved, moved[:, :1].repeat(3, axis=1), atol=1e-3)
    assert 0.19 < np.abs(moved).max() / 255 <= 0.2


def test_holes_are_black_within_their_size_and_number() -> None:
    config = replace(OFF, coarse_dropout=1.0, holes=5, hole_size=0.25)
    params = draw(config, size=64)
    boxes = params.boxes
    filled = (boxes[..., 2] > boxes[..., 0]) & (boxes[..., 3] > boxes[..., 1])
    assert set(filled.sum(axis=1)) <= {0, 1, 2, 3, 4, 5}
    assert filled.sum(axis=1).max() == 5
    edges = boxes[..., 2:] - boxes[..., :2]
    assert edges.max() <= 17
    assert boxes.min() >= 0
    assert boxes.max() <= 64
    out = shown(np.full((64, 64, 3), 200, dtype=np.uint8), params, 0)
    left, top, right, bottom = boxes[0, 0]
    assert not out[top:bottom, left:right].any()
    assert (out == 200).any()


@pytest.mark.parametrize(
    ("field", "limit", "measured"),
    [
        ("contrast", 0.2, lambda colour: colour[:, :, :3].sum(axis=2).mean(axis=1) - 1),
        ("brightness", 0.2, lambda colour: colour[:, 0, 3] / 255),
    ],
)
def test_brightness_and_contrast_are_uniform_over_their_ranges(field: str, limit: float, measured: object) -> None:
    others = {name: 0.0 for name in ("brightness", "contrast") if name != field}
    values = measured(draw(replace(OFF, brightness_contrast=1.0, **others)).colour)  # type: ignore[operator]
    assert_uniform(values, limit)


def test_hue_turns_and_saturation_stretches_the_chroma_and_value_lifts_all_channels() -> None:
    """In YIQ: pure red keeps its luma; the angle and length of its chroma change."""
    yiq = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
    config = replace(OFF, hue_saturation_value=1.0)
    colour = draw(config).colour.astype(np.float64)
    before = yiq @ np.array([1.0, 0.0, 0.0])
    after = (colour[:, :, :3] @ np.array([1.0, 0.0, 0.0])) @ yiq.T
    np.testing.assert_allclose(after[:, 0], before[0], atol=1e-6)
    turned = (after[:, 1] + 1j * after[:, 2]) / (before[1] + 1j * before[2])
    assert_uniform(np.rad2deg(np.angle(turned)), config.hue)
    assert_uniform(np.abs(turned) - 1, config.saturation)
    assert_uniform(colour[:, 0, 3] / 255, config.value)


def test_the_number_of_holes_is_uniform_and_their_edges_are_within_half_and_all_of_the_largest() -> None:
    config = replace(OFF, coarse_dropout=1.0, holes=4, hole_size=0.25)
    boxes = draw(config, size=1000).boxes.astype(np.float64)
    filled = boxes[..., 2] > 0
    np.testing.assert_allclose(np.bincount(filled.sum(axis=1), minlength=5)[1:] / len(MANY), 0.25, atol=0.02)
    inside = filled & (boxes[..., :2] > 0).all(axis=2) & (boxes[..., 2:] < 1000).all(axis=2)
    for axis in (0, 1):
        # Whole holes are a little smaller than all of them, because the largest ones cross the edge most often.
        assert_uniform((boxes[..., axis + 2] - boxes[..., axis])[inside] - 187.5, 63.5, slack=0.04)
        assert_uniform(((boxes[..., axis + 2] + boxes[..., axis]) / 2)[filled] - 500, 500, slack=0.03)


def test_draws_of_one_sample_of_neighbours_and_of_epochs_are_uncorrelated() -> None:
    config = replace(OFF, shift_scale_rotate=1.0, hue_saturation_value=1.0, brightness_contrast=1.0)
    one, other = draw(config), draw(config, epoch=1)
    angle, later = (np.arctan2(params.affine[:, 0, 1], params.affine[:, 0, 0]) for params in (one, other))
    columns = [angle, one.affine[:, 0, 2], one.affine[:, 1, 2], one.colour[:, 0, 3], np.roll(angle, 1), later]
    correlation = np.corrcoef(columns) - np.eye(len(columns))
    # The matrix mixes shift and angle, but without a correlation on average.
    assert np.abs(correlation).max() < 5 / np.sqrt(len(MANY))


def assert_uniform(values: np.ndarray, limit: float, slack: float = 0.002) -> None:
    """Uniform over [-limit, limit], by the largest gap between the distributions (Kolmogorov-Smirnov, 1 in 10,000)."""
    assert np.abs(values).max() <= limit * 1.001 + 0.5 * (limit > 1)
    places = np.sort((values / limit + 1) / 2)
    gap = np.abs(places - (np.arange(len(values)) + 0.5) / len(values)).max()
    assert gap < 2.23 / np.sqrt(len(values)) + slack
