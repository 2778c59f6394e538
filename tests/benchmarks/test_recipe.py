"""Our parameters in the reference's units are what the reference's own formulas make our pixels of."""

import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import picture

from benchmarks.recipe import as_reference, difference, drawn, holes, main, pictures, rendered
from benchmarks.record import read
from configs.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
EDGE = 256
IMAGES = np.stack([cv2.resize(picture(seed, 32, 32), (EDGE, EDGE), interpolation=cv2.INTER_CUBIC) for seed in range(4)])


def test_our_warp_by_the_references_parameters_is_opencvs() -> None:
    params = drawn("shift_scale_rotate", len(IMAGES))
    named = as_reference("shift_scale_rotate", params)
    expected = []
    for image, angle, scale, dx, dy in zip(IMAGES, *named.values(), strict=True):
        matrix = cv2.getRotationMatrix2D((EDGE / 2 - 0.5, EDGE / 2 - 0.5), angle, scale)
        matrix[:, 2] += [dx * EDGE, dy * EDGE]
        expected.append(cv2.warpAffine(image, matrix, (EDGE, EDGE), borderMode=cv2.BORDER_REFLECT_101))
    assert difference(rendered(IMAGES, params, "reflect"), np.stack(expected))["mean"] < 0.2
    assert difference(rendered(IMAGES, params), np.stack(expected))["mean"] > 2


def test_our_contrast_and_brightness_by_the_references_parameters_are_its_formula() -> None:
    params = drawn("brightness_contrast", len(IMAGES))
    named = as_reference("brightness_contrast", params)
    alpha, beta = (named[name][:, None, None, None] for name in ("alpha", "beta"))
    expected = np.clip(IMAGES * alpha + beta * 255, 0, 255).astype(np.uint8)  # it rounds down
    assert difference(rendered(IMAGES, params), expected)["largest"] <= 1


@pytest.mark.parametrize(("part", "channel", "size"), [("hue", 0, 180), ("saturation", 1, 256), ("value", 2, 256)])
def test_our_colours_move_to_the_side_that_the_references_parameter_names(part: str, channel: int, size: int) -> None:
    """On a brown in the range of skin, by OpenCV's own measure of hue, saturation and value."""
    brown = np.full((32, EDGE, EDGE, 3), (170, 120, 80), dtype=np.uint8)
    params = drawn(part, len(brown))
    wanted = as_reference(part, params)[{"hue": "hue_shift", "saturation": "sat_shift", "value": "val_shift"}[part]]
    before, after = (
        np.array([cv2.cvtColor(image[:1, :1], cv2.COLOR_RGB2HSV)[0, 0, channel] for image in images], dtype=float)
        for images in (brown, rendered(brown, params))
    )
    moved = (after - before + size / 2) % size - size / 2
    far = np.abs(wanted) > 3  # levels are whole numbers
    assert far.sum() > 10
    assert (np.sign(moved) == np.sign(wanted))[far].all()


def test_holes_are_counted_and_their_share_is_that_of_the_picture() -> None:
    boxes = np.zeros((2, 8, 4), dtype=np.int32)
    boxes[0, :2] = [[0, 0, 64, 128], [0, 0, 64, 64]]  # one within the other
    boxes[1, 0] = [64, 64, 192, 192]
    found = holes(boxes)
    assert found["number"].tolist() == [2, 1]
    assert sorted(found["edge_percent"].tolist()) == [25, 25, 25, 50, 50, 50]
    assert found["covered_percent"].tolist() == [12.5, 25]
    assert found["covered_percent_of_the_middle"].tolist() == [0, 100]
    assert found["covered_percent_of_the_rim"][1] == 0
    assert found["covered_percent_of_the_rim"][0] > 12.5


def test_another_release_and_too_few_pictures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds 0 images, 8 are needed: give the images' folder by --isic"):
        pictures(tmp_path)
    folder = write_pictures(tmp_path)
    with pytest.raises(UserError, match=r"its albumentations is .*: give one with albumentations==1\.3\.1"):
        main(["--reference", sys.executable, "--isic", str(folder)])


def test_the_whole_comparison_runs_with_the_reference(tmp_path: Path) -> None:
    reference = os.environ.get("ALBUMENTATIONS_131")
    if reference is None:
        pytest.skip("needs ALBUMENTATIONS_131, an interpreter with albumentations 1.3.1")
    words = ["--reference", reference, "--isic", str(write_pictures(tmp_path)), "--draws", "1000"]
    out = tmp_path / "recipe.json"
    subprocess.run([sys.executable, "-m", "benchmarks.recipe", *words, "--out", str(out)], cwd=ROOT, check=True)
    record = read(out)
    assert record["shift_scale_rotate"]["pixels_with_border_reflect"]["mean"] < 0.2
    assert record["coarse_dropout"]["pixels"]["largest"] == 0
    assert record["flips"]["kinds"] == {"ours": 8, "reference": 8}


def test_the_measured_figures_in_the_document_are_the_records() -> None:
    text = (ROOT / "RESULTS.md").read_text().partition("## Our augmentation beside the reference recipe's")[2]
    known = set(re.findall(r"-?\d+(?:\.\d+)?", text.partition("\n## ")[0]))
    rows = (ROOT / "docs/augmentation.md").read_text().partition("| measured |")[2].splitlines()[2:]
    cells = [row.split("|")[4] for row in rows if row.startswith("|")]
    assert len(cells) >= 8
    for cell in cells:
        assert set(re.findall(r"-?\d+(?:\.\d+)?", cell)) <= known, cell


def write_pictures(folder: Path) -> Path:
    """A folder as ISIC 2020 has it, with 8 images."""
    (folder / "2020/jpeg/train").mkdir(parents=True)
    for seed in range(8):
        image = cv2.resize(picture(seed, 32, 32), (EDGE, EDGE), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / f"2020/jpeg/train/{seed}.jpg"), image)
    return folder
