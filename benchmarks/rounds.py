"""How things are compared: in turns, round by round; a difference counts where the rounds agree on it."""

import random
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import TypeVar

import numpy as np
from scipy.stats import quantile_test

Key = TypeVar("Key")


Spread = dict[str, float]
"""The median over the rounds, the lowest and the highest of them, under these names."""


def spread(values: Sequence[float]) -> Spread:
    """Of one figure a round, to four significant digits or more."""
    return {"median": _short(median(values)), "low": _short(min(values)), "high": _short(max(values))}


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


def ratios(these: Sequence[float], others: Sequence[float]) -> list[float]:
    """`these` as multiples of `others`, round by round."""
    return [this / other for this, other in zip(these, others, strict=True)]


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The 90 % interval of the median by order statistics (scipy.stats.quantile_test).

    With up to seven values that is their range, with more an inner part of it, so that measuring longer tells smaller
    differences apart. Under five values no interval is that sure, and their range stands in for it.
    """
    found = quantile_test(values, p=0.5).confidence_interval(0.9)
    if np.isnan([found.low, found.high]).any():
        return min(values), max(values)
    return float(found.low), float(found.high)


def noise(first: Sequence[float], again: Sequence[float]) -> float:
    """The A/A control: how far from 1 the median ratio of the same thing, measured twice a round, may be."""
    return max(abs(end - 1) for end in interval(ratios(again, first)))


def is_tie(these: Sequence[float], others: Sequence[float], control: float) -> bool:
    """Whether the median ratio of the two, round by round, is no further from 1 than the control, or may be 1."""
    found = ratios(these, others)
    low, high = interval(found)
    return abs(median(found) - 1) <= control or low <= 1 <= high
