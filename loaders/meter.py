"""How long a step waited for its data."""

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


class WaitMeter:
    """Adds up the seconds spent inside `over`'s iterator and outside it; costs two clock readings a step."""

    def __init__(self) -> None:
        self.waited = 0.0
        self.worked = 0.0

    def over(self, items: Iterable[Item]) -> Iterator[Item]:
        """`items` as they are, timed."""
        iterator = iter(items)
        while True:
            start = time.perf_counter()
            try:
                item = next(iterator)
            except StopIteration:
                return
            finally:
                self.waited += time.perf_counter() - start
            start = time.perf_counter()
            yield item
            self.worked += time.perf_counter() - start

    @property
    def share(self) -> float:
        """Share of the time that went into waiting, 0 to 1."""
        total = self.waited + self.worked
        return self.waited / total if total else 0.0
