"""Checkpoints that do not stop the step: copies of the tensors, and the thread that writes them."""

import copy
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

Content = dict[str, Any]


class Saver:
    """Writes one checkpoint after the other, in a thread, while training goes on.

    The tensors are copied to host memory, pinned for a GPU, which every save uses again; so a save waits for the one
    before. On a GPU the copies are enqueued behind the step that has just been launched: the host does not wait for
    them, and no later step can change what is copied.

    What goes wrong in the thread is raised by the next call, or at the end of the block, which waits for the thread.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._copies: dict[tuple[Any, ...], Tensor] = {}
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._thread.shutdown()
        finally:  # also after a Ctrl-C: whoever entered the block before holds the lock on the folder
            self._thread.shutdown()
        if kind is None:
            self.wait()

    def save(self, content: Content, write: Callable[[Content], None]) -> None:
        """Have the thread call `write` with `content` as it is after the work that the device has been given so far.

        Numbers and strings in it must not change any more. Raises what went wrong with the save before.
        """
        self.wait()
        copied: Content = self._copied(content, ())
        arrived: torch.cuda.Event | None = None
        if self._device.type == "cuda":
            arrived = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            arrived.record()

        def run() -> None:
            if arrived is not None:
                arrived.synchronize()
            write(copied)

        self._writing = self._thread.submit(run)

    def check(self) -> None:
        """Raise what went wrong with the last save, if that is known already."""
        if self._writing is not None and self._writing.done():
            self.wait()

    def wait(self) -> None:
        """Wait until the last save is written; raises what went wrong with it."""
        if self._writing is not None:
            wait([self._writing])
            written, self._writing = self._writing, None
            written.result()

    def _copied(self, value: Any, place: tuple[Any, ...]) -> Any:
        """Dicts, lists and tuples anew, with copies of the tensors in them: that at `place` in memory of its own."""
        if isinstance(value, Tensor):
            kept = self._copies.get(place)
            if kept is None or (kept.shape, kept.dtype, kept.stride()) != (value.shape, value.dtype, value.stride()):
                kept = self._copies[place] = torch.empty_like(value, device="cpu", pin_memory=value.is_cuda)
            return kept.copy_(value, non_blocking=True)
        if isinstance(value, dict):
            found = copy.copy(value)  # with the versions that a state dict carries
            found.update((name, self._copied(inner, (*place, name))) for name, inner in value.items())
            return found
        if isinstance(value, list | tuple):
            return type(value)(self._copied(inner, (*place, number)) for number, inner in enumerate(value))
        return value
