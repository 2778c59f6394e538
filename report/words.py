"""Figures in words, as captions, leads and verdicts have them."""

import math

from evaluation.discrimination import Estimate
from evaluation.subgroups import LEAST

TOO_FEW = "too few"
"""Instead of a figure that too few melanomas would give."""


def written(found: Estimate, digits: int = 3) -> str:
    """Such as "0.849 (0.829 to 0.869)"; without bounds where there are none, "-" where there is no value."""
    if math.isnan(found.value):
        return "-"
    value, low, high = (f"{round(each, digits) + 0.0:.{digits}f}" for each in (found.value, found.low, found.high))
    return value if "nan" in (low, high) else f"{value} ({low} to {high})"


def few(rows: int, positives: int) -> bool:
    """Whether either class has fewer than LEAST samples, so that no figure can be trusted."""
    return min(positives, rows - positives) < LEAST


def too_few(rows: int, positives: int) -> str:
    """The same in a sentence."""
    found = f"{counted(positives, 'melanoma')} among {counted(rows, 'image')}"
    return f"{found} are too few to judge: {LEAST} melanomas and {LEAST} others are needed."


def counted(number: int, noun: str) -> str:
    """Such as "1 fold" and "1,200 folds"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
