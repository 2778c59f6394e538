from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from report.figures import auc_bars, member_curves, training_curves
from report.style import save


def nonblank_pixels(path: Path) -> np.ndarray:
    """The pixels of a figure, which must not be blank."""
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    assert pixels.std() > 5
    return pixels


def test_curves_are_drawn_from_metrics_that_may_lack_an_auc(tmp_path: Path) -> None:
    lines = ['{"epoch": 0, "train_loss": 1.0, "auc": null}', '{"epoch": 1, "train_loss": 0.9, "auc": 0.7}']
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    save(training_curves({"tiny": [tmp_path, tmp_path]}), tmp_path / "curves.png")
    nonblank_pixels(tmp_path / "curves.png")


def test_a_member_without_validation_has_the_curve_of_its_loss_alone(tmp_path: Path) -> None:
    widths = []
    for aucs in ("", ', "auc": 0.7, "auc_2019": 0.6, "auc_2020": 0.8'):
        (tmp_path / "metrics.jsonl").write_text(f'{{"epoch": 0, "train_loss": 1.0{aucs}}}\n')
        member_curves(tmp_path, tmp_path / "curves.png")
        widths.append(nonblank_pixels(tmp_path / "curves.png").shape[1])
    assert widths[1] == 2 * widths[0]


@pytest.mark.parametrize("members", [1, 7])
def test_bars_are_drawn_for_any_number_of_members(members: int, tmp_path: Path) -> None:
    scores = {f"member {number}": (0.8, 0.75, 0.85) for number in range(members)}
    auc_bars(scores, 0.9, tmp_path / "bars.png")
    nonblank_pixels(tmp_path / "bars.png")
