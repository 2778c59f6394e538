"""Artefacts drawn onto synthetic lesions are found, and lesions without them are not flagged."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from prep.synth.lesion import Picture, draw
from report.artefacts.detectors import DETECTORS
from report.artefacts.drawing import DRAWINGS

RULES = {detector.name: detector for detector in DETECTORS}
SIZES = (64, 128, 256, 512)


def lesions(size: int, *, ruler: bool = False) -> list[np.ndarray]:
    """Ten synthetic lesions without hairs and without a rim: the streams that have neither."""
    streams = (2, 3, 5, 6, 8, 9, 11, 12, 13, 14)
    return [draw(Picture(path=Path("x"), stream=each, a=0, b=0, ruler=ruler), 0, size) for each in streams]


def sticker(pixels: np.ndarray) -> np.ndarray:
    size = len(pixels)
    return cv2.circle(pixels.copy(), (size, size // 2), size // 4, (60, 190, 190), -1, cv2.LINE_AA)


def hairs(pixels: np.ndarray) -> np.ndarray:
    size, drawn = len(pixels), pixels.copy()
    for start in (0.1, 0.3, 0.7, 0.9):
        ends = [(round(start * size), 0), (round((1 - 0.6 * start) * size), size)]
        cv2.line(drawn, *ends, (50, 35, 30), max(1, size // 100), cv2.LINE_AA)
    return drawn


CHANGES = {drawing.detector: drawing for drawing in DRAWINGS}
CHANGES |= {"colour patch": lambda pixels, _: sticker(pixels), "hair": lambda pixels, _: hairs(pixels)}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", [name for name in RULES if name != "hair"])
def test_a_rule_flags_what_is_drawn_and_not_the_same_lesion_without(name: str, size: int) -> None:
    check_rule(name, size)


@pytest.mark.parametrize("size", SIZES[1:])
def test_hair_is_flagged_where_it_is_not_thinner_than_a_pixel(size: int) -> None:
    check_rule("hair", size)


def check_rule(name: str, size: int) -> None:
    plain = lesions(size)
    drawn = [CHANGES[name](pixels, seed) for seed, pixels in enumerate(plain)]
    assert sum(RULES[name](pixels) for pixels in drawn) >= 9
    assert not any(RULES[name](pixels) for pixels in plain)


@pytest.mark.parametrize("drawing", DRAWINGS, ids=lambda drawing: drawing.name)
def test_a_control_is_not_flagged(drawing) -> None:
    controls = [drawing.control(pixels, seed) for seed, pixels in enumerate(lesions(128))]
    assert not any(RULES[drawing.detector](pixels) for pixels in controls)


def test_a_rule_does_not_depend_on_how_the_picture_is_turned() -> None:
    """The four sides of a picture are alike: an artefact at one is found at each."""
    for name, change in CHANGES.items():
        drawn = change(lesions(128)[0], 5)
        scores = [RULES[name].score(np.ascontiguousarray(np.rot90(drawn, turns))) for turns in range(4)]
        assert all(score >= RULES[name].limit for score in scores), (name, scores)


def test_a_bluish_picture_has_no_ink_for_that() -> None:
    for pixels in lesions(128):
        bluish = np.clip(pixels * np.array([0.75, 0.85, 1.35]), 0, 255).astype(np.uint8)
        assert not RULES["ink"](bluish)


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="expected a square picture"):
        RULES["ink"](np.zeros((64, 80, 3), dtype=np.uint8))


@pytest.mark.parametrize("drawing", DRAWINGS, ids=lambda drawing: drawing.name)
def test_a_drawing_leaves_the_lesion_and_the_original_alone(drawing) -> None:
    pixels = lesions(128)[0]
    before = pixels.copy()
    drawn = drawing(pixels, 3)
    np.testing.assert_array_equal(pixels, before)
    np.testing.assert_array_equal(drawn, drawing(pixels, 3))
    assert (drawing(pixels, 4) != drawn).any()
    middle = slice(48, 80)
    np.testing.assert_array_equal(drawn[middle, middle], pixels[middle, middle])


@pytest.mark.parametrize("drawing", DRAWINGS, ids=lambda drawing: drawing.name)
def test_a_control_changes_the_same_pixels_and_less(drawing) -> None:
    for seed, pixels in enumerate(lesions(128)):
        drawn, control = (change(pixels, seed).astype(int) - pixels for change in (drawing, drawing.control))
        assert not control[~drawn.any(axis=2)].any()
        assert np.abs(control).sum() < 0.5 * np.abs(drawn).sum()


def test_no_colour_no_lesion_and_black_are_no_errors() -> None:
    for value in (0, 128, 255):
        flat = np.full((128, 128, 3), value, dtype=np.uint8)
        assert not any(detector(flat) for detector in DETECTORS)
