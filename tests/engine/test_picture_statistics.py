"""The statistics of pictures against plain numpy, one picture at a time."""

import numpy as np
import pytest
import torch

from engine.picture_statistics import STATISTICS, picture_statistics
from loaders.symmetry import view_of


def pictures() -> np.ndarray:
    """uint8 [5, 24, 24, 3]: noise, a dark frame, stripes with flat areas, black, white."""
    rng = np.random.default_rng(0)
    noise, framed = rng.integers(0, 256, (2, 24, 24, 3), dtype=np.uint8)
    framed[:5] = framed[:, -3:] = 4
    striped = np.full((24, 24, 3), 250, dtype=np.uint8)
    striped[:, ::6] = (200, 30, 60)
    return np.stack([noise, framed, striped, np.zeros_like(noise), np.full_like(noise, 255)])


def plain(picture: np.ndarray) -> dict[str, float]:
    """The definitions, in float64."""
    red, green, blue = (picture[..., channel] / 255 for channel in range(3))
    grey = picture.mean(axis=2) / 255
    step = 1 / 255
    contrast = {name: values.std() + step for name, values in (("red", red), ("green", green), ("blue", blue))}
    covariance = np.cov([red.ravel(), green.ravel(), blue.ravel()], bias=True)
    steps = np.abs(np.concatenate([np.diff(grey, axis=0).ravel(), np.diff(grey, axis=1).ravel()]))
    inner = grey[1:-1, 1:-1]
    laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * inner
    cells = grey.reshape(8, 3, 8, 3).mean(axis=(1, 3))
    return {
        "brightness": grey.mean(),
        "log red / green": np.log((red.mean() + 5 * step) / (green.mean() + 5 * step)),
        "log green / blue": np.log((green.mean() + 5 * step) / (blue.mean() + 5 * step)),
        **{f"log contrast of {name}": np.log(value) for name, value in contrast.items()},
        "red and green together": np.arctanh(covariance[0, 1] / contrast["red"] / contrast["green"]),
        "green and blue together": np.arctanh(covariance[1, 2] / contrast["green"] / contrast["blue"]),
        "log gradient": np.log(steps.mean() + step / 10),
        "log Laplacian": np.log(np.abs(laplacian).mean() + step / 10),
        "flat share": np.arcsin(np.sqrt((steps < 1e-6).mean())),
        "log coarse share": np.log((cells.std() + step) / (grey.std() + step)),
        "centre minus mean": cells[2:6, 2:6].mean() - grey.mean(),
    }


def test_every_statistic_follows_its_definition() -> None:
    found = picture_statistics(torch.from_numpy(pictures()))
    assert found.dtype == torch.float32
    for row, picture in zip(found.tolist(), pictures(), strict=True):
        expected = plain(picture)
        assert tuple(expected) == STATISTICS
        np.testing.assert_allclose(row, list(expected.values()), atol=2e-5)


def test_flat_pictures_have_finite_statistics() -> None:
    assert torch.isfinite(picture_statistics(torch.from_numpy(pictures())[3:])).all()


@pytest.mark.parametrize("code", range(1, 8))
def test_flips_and_quarter_turns_change_nothing(code: int) -> None:
    image = torch.from_numpy(pictures())
    torch.testing.assert_close(picture_statistics(view_of(image, code)), picture_statistics(image), atol=2e-5, rtol=0)
