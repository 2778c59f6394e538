"""AdamW, its schedule, and the moving average of the weights."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from configs.schema import OptimConfig


def create_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW over the trainable parameters; vectors and scalars (norms, biases) have no weight decay."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in trained if parameter.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [parameter for parameter in trained if parameter.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, fused=True)


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load a state_dict, with its moments in the memory format that their parameters have now.

    A run may continue in another memory format; fused steps ignore strides and would pair weights with the moments of
    other weights.
    """
    optimizer.load_state_dict(state)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            kept = optimizer.state[parameter]
            for name, value in kept.items():
                if value.shape == parameter.shape and value.stride() != parameter.stride():
                    kept[name] = torch.empty_like(parameter).copy_(value)


def learning_rate_factor(step: int, *, warmup_steps: float, total_steps: int) -> float:
    """Fraction of the peak learning rate at step `step`: linear warm-up from above zero, then a cosine to zero."""
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if step >= total_steps:
        return 0.0
    return 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / (total_steps - warmup_steps)))


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The learning rate of a whole run: a function of the step, with no state."""

    optim: OptimConfig
    steps_per_epoch: int
    epochs: int

    def step_of_run(self, epoch: int, step: int) -> int:
        """The index over the whole run of optimiser step `step` of `epoch`, both from 0."""
        return epoch * self.steps_per_epoch + step

    def learning_rate(self, epoch: int, step: int) -> float:
        """The learning rate of step `step` of `epoch`, both from 0."""
        warmup = min(self.optim.warmup_epochs, self.epochs) * self.steps_per_epoch
        total = self.steps_per_epoch * self.epochs
        factor = learning_rate_factor(self.step_of_run(epoch, step), warmup_steps=warmup, total_steps=total)
        return self.optim.lr * factor


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every parameter group the same learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate


class MovingAverage:
    """Exponential moving average of a model's parameters and running statistics, in a copy of it, `model`.

    The decay of update t, from 1, is min(decay, (1 + t) / (10 + t)), so that the initial weights are soon forgotten.
    The batch counters of batch norms are copied.
    """

    def __init__(self, model: nn.Module, average: nn.Module, decay: float) -> None:
        self.model = average.requires_grad_(False).eval()
        self._decay = decay
        self._averages: tuple[list[Tensor], list[Tensor]] = ([], [])
        self._values: tuple[list[Tensor], list[Tensor]] = ([], [])
        for mean, value in zip(self.model.state_dict().values(), model.state_dict().values(), strict=True):
            self._averages[mean.is_floating_point()].append(mean)
            self._values[mean.is_floating_point()].append(value)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Include the weights after optimiser step `step` (from 0); no copy to the host, few kernel launches."""
        weight = 1 - min(self._decay, (2 + step) / (11 + step))
        torch._foreach_lerp_(self._averages[True], self._values[True], weight)
        if self._averages[False]:
            torch._foreach_copy_(self._averages[False], self._values[False])
