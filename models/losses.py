"""What the logits of a network mean: the loss that trains them, and the probabilities they represent."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from configs.schema import Target


@dataclass(frozen=True, kw_only=True)
class Objective:
    """The meaning of a network's logits, [B, outputs].

    target melanoma: one logit of melanoma, trained with weighted binary cross-entropy; with an auxiliary_weight above 0
    it is followed by `classes` logits of the diagnosis, whose cross-entropy is added with that weight. target
    diagnosis: the `classes` logits alone; the probability of melanoma is that of the class with index `melanoma`.
    """

    target: Target
    auxiliary_weight: float
    classes: int
    melanoma: int
    positive_weight: float = 1.0
    label_smoothing: float = 0.0

    @property
    def outputs(self) -> int:
        """Logits per sample."""
        return (self.target == "melanoma") + (self.classes if self.judges_classes else 0)

    @property
    def judges_classes(self) -> bool:
        """Whether the network predicts diagnoses."""
        return self.target == "diagnosis" or self.auxiliary_weight > 0

    def loss(self, logits: Tensor, target: Tensor, diagnosis: Tensor, valid: Tensor, *, divisor: float) -> Tensor:
        """The loss of one batch, a float32 scalar: summed over the valid samples, divided by `divisor` (`masked_bce`).

        logits: floating point [B, outputs]; target: floating point [B]; diagnosis: int64 [B]; valid: bool [B].
        """
        shared = {"label_smoothing": self.label_smoothing, "divisor": divisor}
        if self.target == "diagnosis":
            return masked_cross_entropy(logits, diagnosis, valid, **shared)
        loss = masked_bce(logits[:, 0], target, valid, positive_weight=self.positive_weight, **shared)
        if self.judges_classes:
            loss = loss + self.auxiliary_weight * masked_cross_entropy(logits[:, 1:], diagnosis, valid, **shared)
        return loss

    def probabilities(self, logits: Tensor) -> Tensor:
        """float64 [B, 1] or [B, 1 + classes]: the probability of melanoma, then of each class if they are predicted."""
        logits = logits.double()
        if self.target == "diagnosis":
            classes = logits.softmax(1)
            return torch.cat([classes[:, self.melanoma, None], classes], dim=1)
        return torch.cat([logits[:, :1].sigmoid(), logits[:, 1:].softmax(1)], dim=1)


def masked_bce(
    logit: Tensor, target: Tensor, valid: Tensor, *, positive_weight: float, label_smoothing: float, divisor: float
) -> Tensor:
    """Sum of the losses of the valid samples divided by `divisor`, a float32 scalar.

    `logit` and `target` are floating point [B], `valid` is bool [B]. With t = target (1 - s) + s / 2 for the
    smoothing s and the positive weight w, the loss of a sample is -(w t log sigmoid(x) + (1 - t) log sigmoid(-x)),
    as in torch's binary_cross_entropy_with_logits. `divisor` is the size of the whole global batch, so that a
    padded or uneven share of it counts only for its valid samples; if gradients are averaged over W ranks
    afterwards, pass the size divided by W. Samples that are not valid are ignored, whatever their values.
    """
    # Mask before the logarithms: a NaN in padding would otherwise reach the gradient as 0 * NaN.
    logit = torch.where(valid, logit.float(), 0.0)
    target = torch.where(valid, target.float(), 0.0) * (1 - label_smoothing) + label_smoothing / 2
    loss = -(positive_weight * target * F.logsigmoid(logit) + (1 - target) * F.logsigmoid(-logit))
    return torch.where(valid, loss, 0.0).sum() / divisor


def masked_cross_entropy(
    logits: Tensor, diagnosis: Tensor, valid: Tensor, *, label_smoothing: float, divisor: float
) -> Tensor:
    """Sum of torch's cross_entropy of the valid samples divided by `divisor`, as in `masked_bce`, a float32 scalar.

    logits: floating point [B, C]; diagnosis: int64 [B], 0 to C - 1; valid: bool [B].
    """
    logits = torch.where(valid[:, None], logits.float(), 0.0)
    loss = F.cross_entropy(logits, diagnosis, reduction="none", label_smoothing=label_smoothing)
    return torch.where(valid, loss, 0.0).sum() / divisor
