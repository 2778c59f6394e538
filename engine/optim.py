"""AdamW, its schedule, and the moving average of the weights."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from configs.schema import OptimConfig


def create_optimizer(model: nn.Module, config: OptimConfig, *, capturable: bool = False) -> torch.optim.AdamW:
    """AdamW over the trainable parameters; vectors and scalars (norms, biases) have no weight decay.

    capturable: the learning rate is a tensor on the device, so that a CUDA graph reads the value of each step.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in trained if parameter.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [parameter for parameter in trained if parameter.ndim < 2], "weight_decay": 0.0},
    ]
    rate = torch.tensor(config.lr, device=trained[0].device) if capturable else config.lr
    return torch.optim.AdamW(groups, lr=rate, fused=True)


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load a state_dict, with its moments in the memory format that their parameters have now.

    A run may continue in another memory format; fused steps ignore strides and would pair weights with the moments of
    other weights. Learning rates stay tensors or numbers, whichever those in the state are.
    """
    rates = [group["lr"] for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate.fill_(group["lr"]) if isinstance(rate, Tensor) else float(group["lr"])
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
    """Give every parameter group the same learning rate; a tensor is filled, because a CUDA graph may read it."""
    for group in optimizer.param_groups:
        group["lr"] = group["lr"].fill_(rate) if isinstance(group["lr"], Tensor) else rate


class MovingAverage:
    """Exponential moving average of a model's parameters and running statistics, in a copy of it, `model`.

    The decay of update t, from 1, is min(decay, (1 + t) / (10 + t)), so that the initial weights are soon forgotten.
    The batch counters of batch norms are copied. capturable: the decay is a tensor on the device, so that a CUDA graph
    reads the value of each step.
    """

    def __init__(self, model: nn.Module, average: nn.Module, decay: float, *, capturable: bool = False) -> None:
        self.model = average.requires_grad_(False).eval()
        self._decay = decay
        self._averages: tuple[list[Tensor], list[Tensor]] = ([], [])
        self._values: tuple[list[Tensor], list[Tensor]] = ([], [])
        for mean, value in zip(self.model.state_dict().values(), model.state_dict().values(), strict=True):
            self._averages[mean.is_floating_point()].append(mean)
            self._values[mean.is_floating_point()].append(value)
        self._weight: Tensor | float = torch.zeros((), device=self._averages[True][0].device) if capturable else 0.0

    def set_step(self, step: int) -> None:
        """Set the decay of the next update, the one after optimiser step `step` (from 0)."""
        weight = 1 - min(self._decay, (2 + step) / (11 + step))
        self._weight = self._weight.fill_(weight) if isinstance(self._weight, Tensor) else weight

    @torch.no_grad()
    def update(self) -> None:
        """Include the weights as they are now; no copy to the host, few kernel launches."""
        if isinstance(self._weight, Tensor):  # lerp takes a number, or a weight for each element
            change = torch._foreach_sub(self._values[True], self._averages[True])
            torch._foreach_mul_(change, self._weight)
            torch._foreach_add_(self._averages[True], change)
        else:
            torch._foreach_lerp_(self._averages[True], self._values[True], self._weight)
        if self._averages[False]:
            torch._foreach_copy_(self._averages[False], self._values[False])
