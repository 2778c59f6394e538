import math
from itertools import pairwise

import pytest
import torch

from configs.schema import OptimConfig
from engine.optim import create_optimizer, create_schedule, learning_rate_factor


def test_norms_and_biases_have_no_weight_decay() -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(4, 2))
    decayed, plain = create_optimizer(model, OptimConfig(weight_decay=0.3)).param_groups
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.3, 0.0)
    assert [parameter.ndim for parameter in decayed["params"]] == [4, 2]
    assert len(decayed["params"]) + len(plain["params"]) == len(list(model.parameters()))


def test_the_schedule_warms_up_in_a_line_and_falls_as_a_cosine() -> None:
    factors = [learning_rate_factor(step, warmup_steps=10, total_steps=110) for step in range(111)]
    assert factors[0] == pytest.approx(1 / 11)
    assert factors[9] == pytest.approx(10 / 11)
    assert max(factors) == factors[10] == 1.0
    assert factors[60] == pytest.approx(0.5)
    assert factors[35] == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))
    assert factors[110] == 0.0
    assert all(later < earlier for earlier, later in pairwise(factors[10:]))


def test_a_run_shorter_than_its_warm_up_only_warms_up() -> None:
    model = torch.nn.Linear(2, 2)
    optimizer = create_optimizer(model, OptimConfig(lr=1.0, warmup_epochs=5))
    schedule = create_schedule(optimizer, OptimConfig(lr=1.0, warmup_epochs=5), steps_per_epoch=4, epochs=1)
    rates = []
    for _ in range(4):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == sorted(rates)
    assert rates[0] > 0
