"""What evaluation.familiarity knows pictures by: a few statistics of their pixels, made where the pixels are."""

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

STATISTICS = (
    "brightness",
    "log red / green",
    "log green / blue",
    "log contrast of red",
    "log contrast of green",
    "log contrast of blue",
    "red and green together",
    "green and blue together",
    "log gradient",
    "log Laplacian",
    "flat share",
    "log coarse share",
    "centre minus mean",
)
_STEP = 1 / 255  # of a channel; keeps logarithms and quotients of flat and black pictures finite
_COARSE = 8  # cells along each edge


@torch.inference_mode()
def picture_statistics(image: Tensor) -> Tensor:
    """STATISTICS of square images, uint8 [B, S, S, 3] with S of 8 or more -> float32 [B, F], on the same device.

    Channels count from 0 to 1, grey is their mean, brightness the mean grey. Colours are quotients of mean channels;
    contrast is a standard deviation; two channels together are their correlation by Fisher's atanh; gradient and
    Laplacian are mean absolute differences of neighbouring grey pixels; the flat share is that of the neighbours that
    do not differ, by the arcsine of its root, which steadies its variance; the coarse share is that of the grey
    contrast which is left between the means of 8 x 8 cells, of which the centre are the middle 4 x 4. All are finite
    and, but for rounding and an S that 8 does not divide, the same for every flip and quarter turn.
    """
    pixels = image.permute(0, 3, 1, 2).contiguous().float() * _STEP  # bytes are cheaper to put in order than floats
    grey, channels = pixels.mean(1), pixels.flatten(2)
    mean = channels.mean(2)
    centred = channels - mean[:, :, None]
    contrast = centred.square().mean(2).sqrt() + _STEP
    together = (centred[:, :-1] * centred[:, 1:]).mean(2) / (contrast[:, :-1] * contrast[:, 1:])
    across, down = grey.diff(dim=2), grey.diff(dim=1)
    steps = torch.cat([across.flatten(1), down.flatten(1)], dim=1).abs()
    laplacian = across.diff(dim=2)[:, 1:-1] + down.diff(dim=1)[:, :, 1:-1]
    cells = adaptive_avg_pool2d(grey, _COARSE)
    fine, coarse = (part.flatten(1).std(1, unbiased=False) + _STEP for part in (grey, cells))
    middle = slice(_COARSE // 4, -_COARSE // 4)
    columns = [
        (steps.mean(1) + _STEP / 10).log(),
        (laplacian.abs().mean((1, 2)) + _STEP / 10).log(),
        (steps < _STEP / 4).float().mean(1).sqrt().asin(),
        (coarse / fine).log(),
        cells[:, middle, middle].mean((1, 2)) - cells.mean((1, 2)),
    ]
    colours = (mean + 5 * _STEP).log()
    parts = [mean.mean(1, keepdim=True), colours[:, :-1] - colours[:, 1:], contrast.log(), together.atanh()]
    return torch.cat([*parts, torch.stack(columns, dim=1)], dim=1)
