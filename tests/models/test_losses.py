import numpy as np
import pytest
import torch
from torch.nn import functional as F

from models.losses import masked_bce


def samples(count: int = 64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logit = 5 * torch.randn(count, generator=generator)
    target = (torch.rand(count, generator=generator) < 0.3).float()
    return logit, target, torch.rand(count, generator=generator) < 0.8


@pytest.mark.parametrize(("positive_weight", "label_smoothing"), [(1.0, 0.0), (10.45, 0.05), (0.5, 0.3)])
def test_matches_a_float64_reference(positive_weight: float, label_smoothing: float) -> None:
    logit, target, valid = samples()
    x, y = logit.double().numpy(), target.double().numpy()
    t = y * (1 - label_smoothing) + label_smoothing / 2
    p = 1 / (1 + np.exp(-x))
    expected = -(positive_weight * t * np.log(p) + (1 - t) * np.log(1 - p))[valid.numpy()].sum() / 64
    loss = masked_bce(
        logit, target, valid, positive_weight=positive_weight, label_smoothing=label_smoothing, divisor=64
    )
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_matches_torch_value_and_gradient() -> None:
    logit, target, _ = samples()
    ours, theirs = logit.clone().requires_grad_(), logit.clone().requires_grad_()
    everything = torch.ones(64, dtype=torch.bool)
    loss = masked_bce(ours, target, everything, positive_weight=10.45, label_smoothing=0.05, divisor=64)
    smoothed = target * 0.95 + 0.025
    reference = F.binary_cross_entropy_with_logits(theirs, smoothed, pos_weight=torch.tensor(10.45))
    loss.backward()
    reference.backward()
    torch.testing.assert_close(loss, reference)
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_padding_takes_no_part_even_when_it_is_nan() -> None:
    logit, target, valid = samples()
    settings = {"positive_weight": 2.0, "label_smoothing": 0.05, "divisor": 64}
    clean = masked_bce(logit, target, valid, **settings)
    spoilt = torch.where(valid, logit, torch.nan).requires_grad_()
    loss = masked_bce(spoilt, torch.where(valid, target, torch.nan), valid, **settings)
    loss.backward()
    assert torch.equal(loss, clean)
    assert spoilt.grad is not None
    assert torch.equal(spoilt.grad == 0, ~valid)


def test_shares_of_a_batch_add_up_to_the_whole() -> None:
    logit, target, valid = samples()
    settings = {"positive_weight": 2.0, "label_smoothing": 0.05, "divisor": 64}
    shares = [masked_bce(logit[part], target[part], valid[part], **settings) for part in (slice(0, 10), slice(10, 64))]
    torch.testing.assert_close(sum(shares), masked_bce(logit, target, valid, **settings))


def test_huge_logits_stay_finite() -> None:
    logit = torch.tensor([-1e4, 1e4], requires_grad=True)
    valid = torch.ones(2, dtype=torch.bool)
    loss = masked_bce(logit, torch.tensor([1.0, 0.0]), valid, positive_weight=1.0, label_smoothing=0.0, divisor=1)
    loss.backward()
    assert loss.item() == pytest.approx(2e4)
    assert logit.grad is not None
    assert logit.grad.tolist() == [-1.0, 1.0]


def test_half_precision_logits_are_summed_in_float32() -> None:
    logit, target, valid = samples()
    loss = masked_bce(logit.bfloat16(), target, valid, positive_weight=1.0, label_smoothing=0.0, divisor=1)
    assert loss.dtype == torch.float32
