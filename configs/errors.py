"""The one exception that is meant for the user, and the checks of settings that raise it."""

from dataclasses import field, fields
from math import inf
from typing import Any, TypeVar

Number = TypeVar("Number", int, float)


class UserError(ValueError):
    """A problem the user can fix: the message names the file, row or field, what was kept, and the remedy.

    Commands print it as one line and exit with code 2; any other exception that escapes is a bug.
    """


def check(good: bool, name: str, value: object, remedy: str) -> None:
    """Raise UserError, naming the setting and its value, unless `good`."""
    if not good:
        raise UserError(f"{name}={value!r} is out of range: {remedy}")


def ranged(default: Number, *, low: float, high: float = inf) -> Number:
    """A dataclass field for which `check_ranges` accepts `low` to `high`, both included, and None."""
    return field(default=default, metadata={"range": (low, high)})


def check_ranges(config: Any, section: str = "") -> None:
    """Raise UserError for the first field of a dataclass outside its `ranged` bounds, as SECTION.FIELD."""
    for setting in fields(config):
        low, high = setting.metadata.get("range", (None, None))
        if low is not None:
            value = getattr(config, setting.name)
            remedy = f"give {low} or more" if high == inf else f"give {low} to {high}"
            check(value is None or low <= value <= high, section + setting.name, value, remedy)
