"""Predictions over a stream of batches: every sample once, at any world size."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from engine.distributed import Ranks
from loaders.stream import Batch


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """One row a sample, sorted by index: index (int64 [N], number in the shard set) and probability (float64 [N])."""

    index: npt.NDArray[np.int64]
    probability: npt.NDArray[np.float64]


def view_of(image: Tensor, view: int) -> Tensor:
    """One of the eight views of uint8 [B, H, W, 3], H = W: bit 0 flips left-right, 1 upside-down, 2 transposes."""
    flipped = [axis for bit, axis in ((1, 2), (2, 1)) if view & bit]
    image = image.flip(flipped) if flipped else image
    return image.transpose(1, 2) if view & 4 else image


@torch.inference_mode()
def predict(model: nn.Module, batches: Iterable[Batch], ranks: Ranks, *, autocast: Any, views: int = 1) -> Predictions:
    """Mean probability of each valid sample over the first `views` views; the same on every rank.

    Every rank must bring equally many batches of one size. Nothing here waits for the device before the end.
    """
    model.eval()
    probabilities, indices = [], []
    for batch in batches:
        total = torch.zeros_like(batch.target, dtype=torch.float64)
        for view in range(views):
            with autocast():
                logit = model(view_of(batch.image, view), batch.meta)
            total += torch.sigmoid(logit.double())
        probabilities.append(total / views)
        indices.append(torch.where(batch.valid, batch.index, -1))
    index = ranks.gather(torch.cat(indices)).cpu().numpy()
    probability = ranks.gather(torch.cat(probabilities)).cpu().numpy()
    order = np.argsort(index, kind="stable")
    order = order[index[order] >= 0]
    return Predictions(index=index[order], probability=probability[order])
