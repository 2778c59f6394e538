"""Loaders are compared on all cores, whichever one this worker of pytest-xdist is pinned to."""

import os
from collections.abc import Iterator

import pytest

CORES = os.cpu_count() or 1


@pytest.fixture(scope="module", autouse=True)
def _all_cores() -> Iterator[None]:
    """Some peers (FFCV) hang on a single core."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    pinned = os.sched_getaffinity(0)
    os.sched_setaffinity(0, range(CORES))
    yield
    os.sched_setaffinity(0, pinned)
