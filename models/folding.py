"""Batch norms folded into the convolutions before them: the same predictions in fewer passes over memory."""

import copy
from contextlib import ExitStack
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)
_TOLERANCE = 1e-3  # of a logit; what folding loses by rounding is a hundredth of that


@torch.no_grad()
def folded(network: Network, image: Tensor, meta: Tensor) -> Network:
    """A copy of a network that predicts, without the batch norms that directly follow a convolution.

    Which ones do shows in a forward pass over `image` uint8 [B, H, W, 3] and `meta` float32 [B, M]. The network itself
    where the copy would answer otherwise: a convolution may have other readers than its batch norm.
    """
    found = copy.deepcopy(network).eval()
    with torch.backends.cudnn.flags(allow_tf32=False):  # whose rounding hides more
        before, pairs = _norms_after_convolutions(found, image, meta)
        for convolution, norm in pairs:
            _fold(convolution, norm)
        _replace(found, {norm: _rest_of(norm) for _, norm in pairs})
        same = torch.allclose(found(image, meta), before, rtol=_TOLERANCE, atol=_TOLERANCE)
    return found if same else network


def _norms_after_convolutions(
    network: nn.Module, image: Tensor, meta: Tensor
) -> tuple[Tensor, list[tuple[nn.Conv2d, nn.BatchNorm2d]]]:
    """The output, and each convolution whose output is the input of a batch norm, with that norm."""
    from timm.layers.conv2d_same import Conv2dSame  # slow to import

    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []
    last: list[tuple[nn.Conv2d, Tensor]] = []

    def after_convolution(module: nn.Conv2d, _: Any, output: Tensor) -> None:
        last[:] = [(module, output)]

    def before_norm(module: nn.BatchNorm2d, inputs: tuple[Tensor, ...]) -> None:
        if last and last[0][1] is inputs[0]:
            pairs.append((last[0][0], module))

    with ExitStack() as hooks:
        for module in network.modules():
            if type(module) in (nn.Conv2d, Conv2dSame):  # others may change their weights in the forward pass
                hooks.callback(module.register_forward_hook(after_convolution).remove)
            elif isinstance(module, nn.BatchNorm2d) and module.track_running_stats:
                hooks.callback(module.register_forward_pre_hook(before_norm).remove)
        output: Tensor = network(image, meta)
    once = [pair for pair in pairs if all(pair is other or not set(pair) & set(other) for other in pairs)]
    return output, once


def _fold(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    """Scale and shift by the running statistics, in float64, in the convolution's weights and bias."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    shift = -norm.running_mean.double()
    if convolution.bias is not None:
        shift = shift + convolution.bias.double()
    if norm.affine:
        scale = scale * norm.weight.double()
    shift = shift * scale + (norm.bias.double() if norm.affine else 0.0)
    weight = convolution.weight
    weight.copy_(weight.double() * scale.view(-1, 1, 1, 1))
    convolution.bias = nn.Parameter(shift.to(weight.dtype))


def _rest_of(norm: nn.BatchNorm2d) -> nn.Module:
    """What a norm does besides: timm's have an activation."""
    return getattr(norm, "act", None) or nn.Identity()


def _replace(network: nn.Module, replaced: dict[nn.BatchNorm2d, nn.Module]) -> None:
    for module in list(network.modules()):
        for name, child in module.named_children():
            if child in replaced:
                setattr(module, name, replaced[child])
