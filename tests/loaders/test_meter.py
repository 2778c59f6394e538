import time
from collections.abc import Iterator

import pytest

from loaders.meter import WaitMeter


def test_time_in_the_iterator_is_waiting_and_time_between_is_work(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    def slow_source() -> Iterator[int]:
        for item in range(3):
            clock[0] += 1.0
            yield item

    meter = WaitMeter()
    seen = []
    for item in meter.over(slow_source()):
        seen.append(item)
        clock[0] += 3.0
    assert seen == [0, 1, 2]
    assert (meter.waited, meter.worked, meter.share) == (3.0, 9.0, 0.25)
