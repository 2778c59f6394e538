import numpy as np
import pytest
import torch
from torch.nn import functional as F

from configs.schema import Target
from models.losses import Objective, masked_bce, masked_cross_entropy


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


def test_padding_is_ignored_even_if_it_is_nan() -> None:
    logit, target, valid = samples()
    settings = {"positive_weight": 2.0, "label_smoothing": 0.05, "divisor": 64}
    clean = masked_bce(logit, target, valid, **settings)
    with_nan = torch.where(valid, logit, torch.nan).requires_grad_()
    loss = masked_bce(with_nan, torch.where(valid, target, torch.nan), valid, **settings)
    loss.backward()
    assert torch.equal(loss, clean)
    assert with_nan.grad is not None
    assert torch.equal(with_nan.grad == 0, ~valid)


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


CLASSES, MELANOMA = 9, 4


def objective_of(target: Target, auxiliary_weight: float = 0.0) -> Objective:
    return Objective(
        target=target,
        auxiliary_weight=auxiliary_weight,
        classes=CLASSES,
        melanoma=MELANOMA,
        positive_weight=10.45,
        label_smoothing=0.05,
    )


def diagnosis_samples(outputs: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    _, target, valid = samples()
    generator = torch.Generator().manual_seed(2)
    logits = 3 * torch.randn(64, outputs, generator=generator)
    return logits, target, torch.randint(CLASSES, (64,), generator=generator), valid


def cross_entropy_reference(logits: torch.Tensor, diagnosis: torch.Tensor, valid: torch.Tensor, smooth: float) -> float:
    x = logits.double().numpy()
    log_probability = x - np.log(np.exp(x).sum(axis=1, keepdims=True))
    smoothed = np.eye(CLASSES)[diagnosis.numpy()] * (1 - smooth) + smooth / CLASSES
    return float(-(smoothed * log_probability).sum(axis=1)[valid.numpy()].sum() / 64)


def test_cross_entropy_matches_a_float64_reference_and_leaves_padding_out() -> None:
    logits, _, diagnosis, valid = diagnosis_samples(CLASSES)
    with_nan = torch.where(valid[:, None], logits, torch.nan).requires_grad_()
    loss = masked_cross_entropy(with_nan, diagnosis, valid, label_smoothing=0.05, divisor=64)
    loss.backward()
    assert loss.item() == pytest.approx(cross_entropy_reference(logits, diagnosis, valid, 0.05), rel=1e-5)
    assert with_nan.grad is not None
    assert torch.equal(with_nan.grad.abs().sum(1) == 0, ~valid)


def test_the_auxiliary_head_adds_its_weighted_loss() -> None:
    logits, target, diagnosis, valid = diagnosis_samples(1 + CLASSES)
    loss = objective_of("melanoma", 0.3).loss(logits, target, diagnosis, valid, divisor=64)
    alone = masked_bce(logits[:, 0], target, valid, positive_weight=10.45, label_smoothing=0.05, divisor=64)
    added = cross_entropy_reference(logits[:, 1:], diagnosis, valid, 0.05)
    assert loss.item() == pytest.approx(alone.item() + 0.3 * added, rel=1e-5)


def test_diagnoses_are_trained_by_their_cross_entropy_alone() -> None:
    logits, target, diagnosis, valid = diagnosis_samples(CLASSES)
    loss = objective_of("diagnosis").loss(logits, target, diagnosis, valid, divisor=64)
    assert loss.item() == pytest.approx(cross_entropy_reference(logits, diagnosis, valid, 0.05), rel=1e-5)


@pytest.mark.parametrize(
    ("target", "weight", "outputs", "columns"),
    [("melanoma", 0.0, 1, 1), ("melanoma", 1.0, 10, 10), ("diagnosis", 0.0, 9, 10)],
)
def test_probabilities_are_melanoma_then_the_classes(target: Target, weight: float, outputs: int, columns: int) -> None:
    objective = objective_of(target, weight)
    assert objective.outputs == outputs
    logits = diagnosis_samples(outputs)[0]
    found = objective.probabilities(logits)
    assert (found.shape, found.dtype) == ((64, columns), torch.float64)
    if target == "melanoma":
        torch.testing.assert_close(found[:, 0], logits[:, 0].double().sigmoid())
    else:
        assert torch.equal(found[:, 0], found[:, 1 + MELANOMA])
    if columns > 1:
        torch.testing.assert_close(found[:, 1:].sum(1), torch.ones(64, dtype=torch.float64))
