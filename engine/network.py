"""A network with the meaning of its logits, built from the settings that training and inference share."""

from typing import Any

import torch

from configs.schema import ModelConfig, OptimConfig, Target
from models.fusion import FusionModel, build_model
from models.losses import Objective
from prep.diagnosis import CLASSES, MELANOMA
from prep.metadata import FEATURES


def rebuilt_network(settings: dict[str, Any], *, size: int, device: torch.device) -> tuple[FusionModel, Objective]:
    """The network of a member's saved settings for images of `size` x `size` pixels, its weights still to be loaded.

    They are random, so that nothing is fetched.
    """
    return build_network(
        settings["backbone"],
        ModelConfig(**settings["model"]),
        OptimConfig(**settings["optim"]),
        settings["target"],
        size=size,
        weights="none",
        device=device,
    )


def build_network(
    backbone: str,
    model: ModelConfig,
    optim: OptimConfig,
    target: Target,
    *,
    size: int,
    weights: str,
    device: torch.device,
    channels_last: bool | None = None,
    positive_weight: float = 1.0,
) -> tuple[FusionModel, Objective]:
    """The network on `device` and its objective; `channels_last` None means the layout that suits the backbone."""
    objective = Objective(
        target=target,
        auxiliary_weight=optim.auxiliary_weight,
        classes=len(CLASSES),
        melanoma=MELANOMA,
        positive_weight=positive_weight,
        label_smoothing=optim.label_smoothing,
    )
    features = len(FEATURES[model.meta])
    network = build_model(
        backbone, model, size=size, meta_features=features, weights=weights, outputs=objective.outputs
    )
    network.use_layout(channels_last=network.channels_last if channels_last is None else channels_last)
    return network.to(device), objective
