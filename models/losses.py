"""The training loss: binary cross-entropy with a positive weight, label smoothing and a mask for padding."""

import torch
from torch import Tensor
from torch.nn import functional as F


def masked_bce(
    logit: Tensor,
    target: Tensor,
    valid: Tensor,
    *,
    positive_weight: float,
    label_smoothing: float,
    divisor: float,
) -> Tensor:
    """Sum of the losses of the valid samples over `divisor`, a float32 scalar.

    `logit` and `target` are floating point [B], `valid` is bool [B]. With t = target (1 - s) + s / 2 for the
    smoothing s and the positive weight w, one sample costs -(w t log sigmoid(x) + (1 - t) log sigmoid(-x)), as
    in torch's binary_cross_entropy_with_logits. `divisor` is the size of the whole global batch, so that a
    padded or uneven share of it weighs what its valid samples weigh; where gradients are averaged over W
    ranks afterwards, pass the size over W. A sample that is not valid takes no part, whatever its values.
    """
    # Masked before the logarithms: a NaN in padding would otherwise come back as 0 * NaN in the gradient.
    logit = torch.where(valid, logit.float(), 0.0)
    target = torch.where(valid, target.float(), 0.0) * (1 - label_smoothing) + label_smoothing / 2
    loss = -(positive_weight * target * F.logsigmoid(logit) + (1 - target) * F.logsigmoid(-logit))
    return torch.where(valid, loss, 0.0).sum() / divisor
