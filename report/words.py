"""Figures in words, as captions, leads and verdicts have them."""

import math

from evaluation.discrimination import Estimate

TOO_FEW = "too few"
"""Instead of a figure that too few melanomas would give."""


def written(found: Estimate, digits: int = 3) -> str:
    """Such as "0.849 (0.829 to 0.869)"; without bounds where there are none, "-" where there is no value."""
    if math.isnan(found.value):
        return "-"
    value, low, high = (f"{round(each, digits) + 0.0:.{digits}f}" for each in (found.value, found.low, found.high))
    return value if "nan" in (low, high) else f"{value} ({low} to {high})"


def counted(number: int, noun: str) -> str:
    """Such as "1 fold" and "1,200 folds"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
