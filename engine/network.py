"""A network with the meaning of its logits, built from the settings that training and inference share."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from configs.errors import UserError
from configs.schema import ModelConfig, OptimConfig, Target
from models.fusion import FusionModel, build_model
from models.losses import Objective
from models.weights import misfits
from prep.diagnosis import CLASSES, MELANOMA
from prep.metadata import FEATURES


def rebuilt_network(
    settings: dict[str, Any], weights: dict[str, Tensor], *, size: int, device: torch.device, path: Path
) -> tuple[FusionModel, Objective]:
    """The network of a member's saved settings for images of `size` x `size` pixels, with its `weights`, to predict.

    `path` is the file that they come from. Raises UserError if the settings are not of this version, or the weights
    are not those of such a network, or not finite.
    """
    again = "train this member again, or use the version of this code that trained it"
    try:
        network, objective = build_network(
            settings["backbone"],
            ModelConfig(**settings["model"]),
            OptimConfig(**settings["optim"]),
            settings["target"],
            size=size,
            weights="none",  # nothing is fetched
            device=device,
        )
    except (KeyError, TypeError, UserError) as error:
        reason = f"{type(error).__name__}: {error}" if not isinstance(error, UserError) else error
        raise UserError(
            f"{path} has settings that this version cannot build a network of ({reason}): {again}"
        ) from error
    wrong = misfits(network.state_dict(), weights)
    if wrong:
        raise UserError(f"{path} does not fit the network that its settings describe: {wrong}; {again}")
    network.load_state_dict(weights)
    return network.eval(), objective


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
