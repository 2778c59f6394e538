"""Predictions over a stream of batches: every sample once, at any world size."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from engine.distributed import Ranks
from loaders.batch import Batch
from loaders.symmetry import view_of
from models.losses import Objective


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """One row per sample, sorted by index.

    index: int64 [N], row number in the shard set; probability: float64 [N], of melanoma; classes: float64 [N, C], of
    each diagnosis, C = 0 if the network does not predict them.
    """

    index: npt.NDArray[np.int64]
    probability: npt.NDArray[np.float64]
    classes: npt.NDArray[np.float64]


@torch.inference_mode()
def predict(
    model: nn.Module, objective: Objective, batches: Iterable[Batch], ranks: Ranks, *, autocast: Any, views: int = 1
) -> Predictions:
    """Mean probabilities of each valid sample over the first `views` symmetries; the same on every rank.

    Every rank must have the same number of batches, all of the same size. Nothing waits for the device until the end.
    """
    model.eval()
    probabilities, indices = [], []
    for batch in batches:
        seen = []
        for view in range(views):
            with autocast():
                logits = model(view_of(batch.image, view), batch.meta)
            seen.append(objective.probabilities(logits))
        probabilities.append(torch.stack(seen).mean(0))
        indices.append(torch.where(batch.valid, batch.index, -1))
    index = ranks.gather(torch.cat(indices)).cpu().numpy()
    probability = ranks.gather(torch.cat(probabilities)).cpu().numpy()
    order = np.argsort(index, kind="stable")
    order = order[index[order] >= 0]
    return Predictions(index=index[order], probability=probability[order, 0], classes=probability[order, 1:])
