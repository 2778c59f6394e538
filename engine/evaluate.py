"""Predictions over a stream of batches: every sample once, at any world size, by one network or by many at once."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from engine.distributed import Ranks
from engine.step import lead_over
from loaders.batch import Batch
from loaders.symmetry import view_of
from models.losses import Objective

Describe = Callable[[Tensor], Tensor]
"""Images uint8 [b, H, W, 3] -> statistics of each, floating point [b, F]."""
_GROUP = 64  # batches whose results stay on the device; then they move to the host together


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """One row per sample, sorted by index.

    index: int64 [N], row number in the shard set; probability: float64 [N], of melanoma; classes: float64 [N, C], of
    each diagnosis, C = 0 if the network does not predict them.
    """

    index: npt.NDArray[np.int64]
    probability: npt.NDArray[np.float64]
    classes: npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Scorer:
    """A network that scores batches: what its logits mean, and which columns of a batch's meta vectors it takes."""

    network: nn.Module
    objective: Objective
    columns: slice = field(default_factory=lambda: slice(None))


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What K networks say of N samples in V views; rows sorted by index.

    index: int64 [N], as in the batches; probability: float64 [K, V, N], of melanoma; classes: for each network float64
    [N, C], means over the views; statistics: float64 [N, F], what `describe` said of each image.
    """

    index: npt.NDArray[np.int64]
    probability: npt.NDArray[np.float64]
    classes: list[npt.NDArray[np.float64]]
    statistics: npt.NDArray[np.float64]


def predict(
    model: nn.Module, objective: Objective, batches: Iterable[Batch], ranks: Ranks, *, autocast: Any, views: int = 1
) -> Predictions:
    """Mean probabilities of each valid sample over the first `views` symmetries, as `score` gives them."""
    scorer = Scorer(network=model, objective=objective)
    found = score([scorer], batches, ranks, autocast=autocast, views=views)
    return Predictions(index=found.index, probability=found.probability[0].mean(0), classes=found.classes[0])


def no_statistics(image: Tensor) -> Tensor:
    """float64 [b, 0] for images [b, H, W, 3]: nothing is asked about the pixels."""
    return image.new_empty((len(image), 0), dtype=torch.float64)


@torch.inference_mode()
def score(
    scorers: Sequence[Scorer],
    batches: Iterable[Batch],
    ranks: Ranks,
    *,
    autocast: Any,
    views: int = 1,
    describe: Describe = no_statistics,
) -> Scores:
    """Every network on every view of each valid sample; the same result on every rank.

    Each batch is loaded once, and its views are made on its device. Every rank must have the same number of batches,
    of the same sizes. The host waits for results only once in 64 batches.
    """
    lead = lead_over(ranks.device)
    for scorer in scorers:
        scorer.network.eval()
    waiting: list[Tensor] = []
    groups: list[npt.NDArray[np.float64]] = []
    for batch in batches:
        waiting.append(_rows(scorers, batch, autocast, views, describe))
        lead()
        if len(waiting) == _GROUP:
            groups.append(ranks.gather(torch.cat(waiting)).cpu().numpy())
            waiting.clear()
    if waiting:
        groups.append(ranks.gather(torch.cat(waiting)).cpu().numpy())
    table = np.concatenate(groups)
    table = table[np.argsort(table[:, 0], kind="stable")]
    table = table[table[:, 0] >= 0]
    seen = len(scorers) * views
    probability = np.ascontiguousarray(table[:, 1 : 1 + seen].T).reshape(len(scorers), views, len(table))
    classes, start = [], 1 + seen
    for scorer in scorers:
        end = start + (scorer.objective.classes if scorer.objective.judges_classes else 0)
        classes.append(table[:, start:end])
        start = end
    index = table[:, 0].astype(np.int64)
    return Scores(index=index, probability=probability, classes=classes, statistics=table[:, start:])


def _rows(scorers: Sequence[Scorer], batch: Batch, autocast: Any, views: int, describe: Describe) -> Tensor:
    """float64 [b, columns]: the index (-1 where not valid), probabilities by network and view, classes, statistics."""
    shown = [view_of(batch.image, view).contiguous() for view in range(views)]
    melanoma, classes = [], []
    for scorer in scorers:
        meta, seen = batch.meta[:, scorer.columns], []
        for image in shown:
            with autocast():
                logits = scorer.network(image, meta)
            seen.append(scorer.objective.probabilities(logits))
        melanoma += [probability[:, :1] for probability in seen]
        classes.append(torch.stack(seen).mean(0)[:, 1:])
    index = torch.where(batch.valid, batch.index, -1).double()[:, None]
    return torch.cat([index, *melanoma, *classes, describe(batch.image)], dim=1)
