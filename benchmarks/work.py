"""What one image costs a model: multiply-adds, activations, and the bytes that its operators read and write."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.record import Work
from configs.schema import ModelConfig
from engine.session import Session
from engine.step import Step
from loaders.stream import Batch
from models.fusion import build_model
from prep.metadata import FEATURES

_DEFAULT = ModelConfig()


def model_work(backbone: str, size: int, config: ModelConfig = _DEFAULT) -> Work:
    """Of the forward pass of the whole network, on one image of `size` px."""
    features = len(FEATURES[config.meta])
    model = build_model(backbone, config, size=size, meta_features=features, weights="none").eval()
    image, meta = torch.zeros(1, size, size, 3, dtype=torch.uint8), torch.zeros(1, features)
    with torch.no_grad(), FlopCounterMode(display=False) as flops, _outputs(model) as activations:
        model(image, meta)
    parameters = sum(one.numel() for one in model.parameters())
    return Work(
        backbone=backbone,
        size=size,
        parameters_m=round(parameters / 1e6, 3),
        gmacs=round(flops.get_total_flops() / 2e9, 4),
        activations_m=round(sum(activations) / 1e6, 3),
    )


def step_work(session: Session, batch: Batch) -> Work:
    """`model_work`, and operations and bytes of one eager step of a session (forward, loss, backward), an image.

    Operations are three times those of the forward pass: torch's counter forgets the groups of a convolution in its
    backward, which multiplies an EfficientNet's by ten.
    """
    step = Step(
        network=session.model,
        objective=session.objective,
        autocast=session.autocast,
        samples=len(batch.index),
        parts=session.config.accumulate,
    )
    with ByteCounter() as moved:
        step(batch)
    one = model_work(session.config.backbone, session.shards.size, session.config.model)
    images = len(batch.index)
    return Work(
        backbone=one.backbone,
        size=one.size,
        parameters_m=one.parameters_m,
        gmacs=one.gmacs,
        activations_m=one.activations_m,
        step_gflop=round(3 * 2 * one.gmacs, 4),
        step_gb=round(moved.bytes / 1e9 / images, 5),
    )


class ByteCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the bytes of all tensors that operators take and give; views move nothing."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count one operator."""
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            tensors = [one for one in tree_leaves((args, kwargs, result)) if isinstance(one, torch.Tensor)]
            self.bytes += sum(one.numel() * one.element_size() for one in {id(one): one for one in tensors}.values())
        return result


@contextmanager
def _outputs(model: nn.Module) -> Iterator[list[int]]:
    """Elements that each convolution and linear layer puts out, as they are called."""
    found: list[int] = []

    def count(_: nn.Module, __: Any, output: torch.Tensor) -> None:
        found.append(output.numel())

    hooks = [one.register_forward_hook(count) for one in model.modules() if isinstance(one, nn.Conv2d | nn.Linear)]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
