"""The one exception that is meant for the user, the checks of settings that raise it, and remarks that stop nothing."""

import os
import sys
from collections.abc import Iterable
from dataclasses import field, fields
from difflib import get_close_matches
from functools import lru_cache
from math import inf
from pathlib import Path
from typing import Any, TypeVar

Number = TypeVar("Number", int, float)


class UserError(ValueError):
    """A problem the user can fix: the message names the file, row or field, what was kept, and the remedy.

    Commands print it as one line and exit with code 2; any other exception that escapes is a bug.
    """


@lru_cache(maxsize=256)
def note(text: str) -> None:
    """Tell the user, on stderr, how something was understood; once in a process, and by the first rank alone."""
    if os.environ.get("RANK", "0") in ("", "0"):
        print(f"note: {text}", file=sys.stderr)


def nearest(word: str, known: Iterable[str]) -> str:
    """What to add to a message about an unknown word: the known one that begins with it, itself or after a dot, or
    else resembles it; empty if none does."""
    names = list(dict.fromkeys(known))
    longer = [name for name in names if word and f".{word}".lower() in f".{name}".lower()]
    found = longer if len(longer) == 1 else get_close_matches(word, names, n=1) or longer
    return f"; did you mean {found[0]}?" if found else ""


def nearest_path(path: str | Path) -> str:
    """The same for a file or folder that does not exist, among what lies beside it."""
    path = Path(path)
    try:
        beside = sorted(one.name for one in path.parent.iterdir())
    except OSError:
        return ""
    found = get_close_matches(path.name, beside, n=1)
    return f"; did you mean {path.parent / found[0]}?" if found else ""


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
