"""Embeddings of training pictures by a trained backbone, to find pictures that look the same."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from configs.schema import LoaderConfig, ModelConfig
from engine.distributed import Ranks, joined_ranks
from engine.members import load_member
from loaders.loader import Loader
from loaders.order import Indices, Partition
from models.fusion import FusionModel, build_model
from report.case import Case

_BATCH = 64


@dataclass(frozen=True, kw_only=True, eq=False)
class Embedding:
    """What a backbone sees in N pictures."""

    rows: Indices
    """Their row numbers [N], int64, in increasing order."""
    vectors: npt.NDArray[np.float32]
    """Pooled features [N, F], not normalised."""
    backbone: str
    """Whose they are, in words."""


def drawn_rows(case: Case) -> Indices:
    """config.pictures of the training pictures of the set, drawn at random without replacement, int64, sorted."""
    training = case.shards.train_rows(None)
    count = min(case.config.pictures, len(training))
    return np.sort(np.random.default_rng(case.config.seed).choice(training, count, replace=False))


def embedded(case: Case) -> Embedding | None:
    """The embeddings of `drawn_rows`, by --weights or else the first member that sees images.

    None where no picture is asked for, or where no member sees images. Raises UserError for weights that do not fit.
    """
    rows = drawn_rows(case)
    seeing = [member for member in case.members if member.config["model"]["inputs"] != "meta"]
    if not len(rows) or not (case.config.weights or seeing):
        return None
    with joined_ranks(case.config.device) as ranks:
        if case.config.weights:
            name = f"{case.config.backbone} with the weights of {Path(case.config.weights).name}"
            network = _pretrained(case, ranks.device)
        else:
            name = f"the member {seeing[0].name}"
            network = load_member(seeing[0], "last", ranks.device).network
        return Embedding(rows=rows, vectors=_features(case, rows, network, ranks), backbone=name)


def _pretrained(case: Case, device: torch.device) -> FusionModel:
    """A network of --weights whose head is never asked."""
    model, weights = ModelConfig(inputs="image"), str(case.config.weights)
    network = build_model(case.config.backbone, model, size=case.shards.size, meta_features=0, weights=weights)
    network.use_layout(channels_last=network.channels_last)
    return network.to(device)


@torch.inference_mode()
def _features(case: Case, rows: Indices, network: FusionModel, ranks: Ranks) -> npt.NDArray[np.float32]:
    network.eval()
    assert network.backbone is not None
    assert network.normalise is not None
    found = []
    with Loader(LoaderConfig(), case.shards, rows, ranks.device, threads=ranks.threads) as loader:
        for batch in loader.eval_batches(rows, Partition(samples=len(rows), batch_size=_BATCH, pad=False)):
            found.append(network.backbone(network.normalise(batch.image)).float().cpu().numpy())
    return np.concatenate(found)
