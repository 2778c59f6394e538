"""Activations that keep their inputs: the same numbers, without autograd's copies."""

import copy

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from configs.schema import ModelConfig
from models.fusion import FusionModel, build_model


class Clones(TorchDispatchMode):
    """Counts the activations that are cloned; pixels, copied to NCHW where a network wants that, are integers."""

    def __init__(self) -> None:
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.number += func is torch.ops.aten.clone.default and result.is_floating_point()
        return result


def logits_and_gradients(model: FusionModel) -> tuple[torch.Tensor, dict[str, torch.Tensor], int]:
    """Of a training step with dropout; and how many activations its forward pass cloned."""
    generator = torch.Generator().manual_seed(1)
    image = torch.randint(0, 256, (4, 64, 64, 3), dtype=torch.uint8, generator=generator)
    meta = torch.randn(4, 11, generator=generator)
    torch.manual_seed(2)
    with Clones() as clones:
        logits = model(image, meta)
    logits.square().sum().backward()
    return logits, {name: value.grad for name, value in model.named_parameters()}, clones.number


@pytest.mark.parametrize(("backbone", "cloned"), [("tiny", 11), ("efficientnet_b1", 69), ("resnest50", 0)])
def test_out_of_place_activations_change_no_bit_and_clone_nothing(backbone: str, cloned: int) -> None:
    torch.manual_seed(0)
    in_place = build_model(backbone, ModelConfig(), size=64, meta_features=11, weights="none")
    in_place.use_layout(channels_last=in_place.channels_last)
    out_of_place = copy.deepcopy(in_place)
    out_of_place.keep_activation_inputs()
    logits, gradients, clones = logits_and_gradients(in_place)
    assert clones == cloned
    found, others, clones = logits_and_gradients(out_of_place)
    assert clones == 0
    assert torch.equal(found, logits)
    for name, gradient in gradients.items():
        assert torch.equal(others[name], gradient), name
    for one, two in zip(in_place.buffers(), out_of_place.buffers(), strict=True):
        assert torch.equal(one, two)
