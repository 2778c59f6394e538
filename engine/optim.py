"""AdamW and its schedule."""

import math

import torch
from torch import nn

from configs.schema import OptimConfig


def create_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW over the trainable parameters; vectors and scalars (norms, biases) have no weight decay."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in trained if parameter.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [parameter for parameter in trained if parameter.ndim < 2], "weight_decay": 0.0},
    ]
    fused = any(parameter.is_cuda for parameter in trained)
    return torch.optim.AdamW(groups, lr=config.lr, fused=fused)


def learning_rate_factor(step: int, *, warmup_steps: float, total_steps: int) -> float:
    """Share of the peak learning rate at optimiser step `step`: a line up from above zero, then a cosine to zero."""
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if step >= total_steps:
        return 0.0
    return 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / (total_steps - warmup_steps)))


def create_schedule(
    optimizer: torch.optim.Optimizer, config: OptimConfig, *, steps_per_epoch: int, epochs: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """The schedule of a whole run, stepped after each optimiser step."""
    total = steps_per_epoch * epochs
    warmup = min(config.warmup_epochs, epochs) * steps_per_epoch
    return torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(step, warmup_steps=warmup, total_steps=total)
    )
