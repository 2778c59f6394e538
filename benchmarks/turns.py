"""How things are compared here: they take turns, and a difference counts where the same thing twice differs by less."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

import numpy as np
from scipy.stats import quantile_test

Key = TypeVar("Key")


@dataclass(frozen=True, kw_only=True)
class Spread:
    """The median over the rounds, and the lowest and highest of them."""

    median: float
    low: float
    high: float

    def words(self, digits: int = 0) -> str:
        """The median and, in brackets, the range."""
        return f"{self.median:,.{digits}f} ({self.low:,.{digits}f} to {self.high:,.{digits}f})"


def spread(values: Sequence[float]) -> Spread:
    """Of one figure a round, to four significant digits or more."""
    return Spread(median=_short(median(values)), low=_short(min(values)), high=_short(max(values)))


def _short(value: float) -> float:
    return round(value, 1) if abs(value) >= 1000 else float(f"{value:.4g}")


def in_turns(contenders: Mapping[Key, Callable[[], float]], rounds: int) -> dict[Key, list[float]]:
    """One figure a round of each, in another order in every round, so that no one always follows the same one."""
    found: dict[Key, list[float]] = {name: [] for name in contenders}
    order = random.Random(0)
    for _ in range(rounds):
        for name in order.sample(list(contenders), len(contenders)):
            found[name].append(contenders[name]())
    return found


def ratio(one: Sequence[float], other: Sequence[float]) -> Spread:
    """`one` as a multiple of `other`, round by round."""
    return spread([a / b for a, b in zip(one, other, strict=True)])


def noise(first: Sequence[float], again: Sequence[float]) -> float:
    """The A/A control: how far the median ratio of the same thing, measured twice a round, may be from 1, as a share.

    That is the further end of the 90 % interval of the median by order statistics: with up to seven rounds the worst
    one, with more rounds an inner one, so that measuring longer tells smaller differences apart.
    """
    ratios = [a / b for a, b in zip(again, first, strict=True)]
    interval = quantile_test(ratios, p=0.5).confidence_interval(0.9)
    if np.isnan([interval.low, interval.high]).any():  # under five rounds no interval is that sure
        return _short(max(abs(ratio - 1) for ratio in ratios))
    return _short(max(abs(interval.low - 1), abs(interval.high - 1)))


def is_tie(found: Spread, control: float) -> bool:
    """Whether a ratio is no further from 1 than the control."""
    return abs(found.median - 1) <= control
