"""Batch norms folded into convolutions: fewer modules, the same answers."""

import pytest
import torch
from torch import Tensor, nn

from configs.schema import ModelConfig
from models.folding import folded
from models.fusion import build_model

SIZE = 64


def inputs() -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(1)
    image = torch.randint(0, 256, (4, SIZE, SIZE, 3), dtype=torch.uint8, generator=rng)
    return image, torch.randn(4, 9, generator=rng)


def with_statistics(network: nn.Module) -> nn.Module:
    """The network in evaluation, its batch norms as after a training and not as made."""
    torch.manual_seed(2)
    for norm in (one for one in network.modules() if isinstance(one, nn.BatchNorm1d | nn.BatchNorm2d)):
        norm.weight.data.uniform_(0.5, 1.5)
        norm.bias.data.normal_(std=0.1)
    network.train()
    with torch.no_grad():
        for _ in range(30):  # running statistics near to those of the batch, as after a training
            network(*inputs())
    return network.eval()


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("backbone", ["tiny", "efficientnet_b1", "efficientnet_b3", "efficientnet_b4", "resnest50"])
@torch.no_grad()
def test_every_norm_of_a_backbone_is_folded_and_no_answer_changes(backbone: str, channels_last: bool) -> None:
    network = build_model(backbone, ModelConfig(), size=SIZE, meta_features=9, weights="none")
    network.use_layout(channels_last=channels_last)
    before = with_statistics(network)(*inputs())
    found = folded(network, *inputs())
    assert not any(isinstance(one, nn.BatchNorm2d) for one in found.modules())
    assert any(isinstance(one, nn.BatchNorm2d) for one in network.modules()), "the network itself stays as it is"
    torch.testing.assert_close(found(*inputs()), before, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(network(*inputs()), before, rtol=0, atol=0)


class _Shared(nn.Module):
    """A convolution whose output has two readers, of which one is a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, image: Tensor, _: Tensor) -> Tensor:
        features = self.convolution(image.permute(0, 3, 1, 2) / 255)
        found: Tensor = (features + self.norm(features)).mean((2, 3))
        return found


class _Twice(_Shared):
    """A convolution that is used twice, once with a batch norm."""

    def forward(self, image: Tensor, _: Tensor) -> Tensor:
        pixels = image.permute(0, 3, 1, 2) / 255
        found: Tensor = (self.norm(self.convolution(pixels)) + self.convolution(pixels.flip(3))).mean((2, 3))
        return found


@pytest.mark.parametrize("kind", [_Shared, _Twice])
@torch.no_grad()
def test_a_norm_that_cannot_be_folded_stays(kind: type[_Shared]) -> None:
    network = with_statistics(kind())
    found = folded(network, *inputs())
    torch.testing.assert_close(found(*inputs()), network(*inputs()), rtol=0, atol=0)
    assert any(isinstance(one, nn.BatchNorm2d) for one in found.modules())
