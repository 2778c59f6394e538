"""No warnings of a library, on any number of threads."""

import threading
import warnings
from contextlib import ExitStack


class NoWarnings:
    """Warnings are ignored while any thread is inside.

    With `warnings.catch_warnings` alone, threads that overlap restore the wrong filters in the end.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._filters = ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._filters.enter_context(warnings.catch_warnings(action="ignore"))
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._filters.close()


no_warnings = NoWarnings()
"""The one of this process."""
