import copy
import math
from itertools import pairwise

import pytest
import torch

from configs.schema import OptimConfig
from engine.optim import (
    MovingAverage,
    Schedule,
    create_optimizer,
    learning_rate_factor,
    load_optimizer,
    set_learning_rate,
)


def test_norms_and_biases_have_no_weight_decay() -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(4, 2))
    decayed, plain = create_optimizer(model, OptimConfig(weight_decay=0.3)).param_groups
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.3, 0.0)
    assert [parameter.ndim for parameter in decayed["params"]] == [4, 2]
    assert len(decayed["params"]) + len(plain["params"]) == len(list(model.parameters()))


def test_the_schedule_is_a_linear_warm_up_then_a_cosine() -> None:
    factors = [learning_rate_factor(step, warmup_steps=10, total_steps=110) for step in range(111)]
    assert factors[0] == pytest.approx(1 / 11)
    assert factors[9] == pytest.approx(10 / 11)
    assert max(factors) == factors[10] == 1.0
    assert factors[60] == pytest.approx(0.5)
    assert factors[35] == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))
    assert factors[110] == 0.0
    assert all(later < earlier for earlier, later in pairwise(factors[10:]))


def test_a_run_shorter_than_its_warm_up_only_warms_up() -> None:
    schedule = Schedule(optim=OptimConfig(lr=1.0, warmup_epochs=5), steps_per_epoch=4, epochs=1)
    rates = [schedule.learning_rate(0, step) for step in range(4)]
    assert rates == sorted(rates)
    assert rates[0] > 0


def test_the_rate_of_a_run_is_that_of_its_step() -> None:
    schedule = Schedule(optim=OptimConfig(lr=2e-4, warmup_epochs=1.0), steps_per_epoch=100, epochs=15)
    rates = [schedule.learning_rate(*place) for place in ((0, 0), (0, 99), (1, 0), (8, 0), (15, 0))]
    assert rates == pytest.approx([2e-4 / 101, 2e-4 * 100 / 101, 2e-4, 1e-4, 0.0])


def test_set_learning_rate_sets_every_group() -> None:
    optimizer = create_optimizer(torch.nn.Linear(2, 2), OptimConfig())
    set_learning_rate(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25]


def test_a_capturable_rate_stays_the_tensor_that_a_graph_reads_whatever_is_loaded() -> None:
    layer = torch.nn.Linear(2, 2)
    plain, capturable = (create_optimizer(layer, OptimConfig(), capturable=kind) for kind in (False, True))
    rates = [group["lr"] for group in capturable.param_groups]
    set_learning_rate(capturable, 0.25)
    state = capturable.state_dict()
    assert [group["lr"] for group in state["param_groups"]] == [0.25, 0.25]
    load_optimizer(plain, state)
    set_learning_rate(plain, 0.5)
    assert [type(group["lr"]) for group in plain.param_groups] == [float, float]
    load_optimizer(capturable, plain.state_dict())
    assert all(group["lr"] is rate for group, rate in zip(capturable.param_groups, rates, strict=True))
    assert [float(rate) for rate in rates] == [0.5, 0.5]


@pytest.mark.parametrize("capturable", [False, True])
def test_the_moving_average_follows_the_formula_and_copies_counts(capturable: bool) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3))
    average = MovingAverage(model, copy.deepcopy(model), 0.5, capturable=capturable)
    expected = {name: value.double() for name, value in model.state_dict().items()}
    for step in range(12):
        model(torch.randn(8, 3))  # moves the running statistics
        with torch.no_grad():
            model[0].weight.add_(1.0)
        average.set_step(step)
        average.update()
        decay = min(0.5, (2 + step) / (11 + step))
        expected = {name: decay * expected[name] + (1 - decay) * value for name, value in model.state_dict().items()}
    found = average.model.state_dict()
    assert found.pop("1.num_batches_tracked") == 12
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name].float(), msg=name)
    assert not any(parameter.requires_grad for parameter in average.model.parameters())


def test_moments_follow_the_layout_of_their_parameters() -> None:
    """An optimiser resumed in another memory format takes the same steps; fused ones ignore strides."""
    torch.manual_seed(0)
    first = torch.nn.Conv2d(4, 8, 3)
    second = copy.deepcopy(first)
    one, two = (create_optimizer(model, OptimConfig()) for model in (first, second))
    gradient = torch.randn_like(first.weight)
    for _ in range(2):
        first.weight.grad = gradient.clone()
        one.step()
    second.load_state_dict(first.state_dict())
    second.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    load_optimizer(two, copy.deepcopy(one.state_dict()))
    for model, optimizer in ((first, one), (second, two)):
        model.weight.grad = torch.empty_like(model.weight).copy_(gradient.flip(0))
        optimizer.step()
    torch.testing.assert_close(second.weight, first.weight)
