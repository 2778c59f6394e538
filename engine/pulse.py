"""Signs of life of the ranks: who has fallen silent when the others wait in vain."""

import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from torch.distributed.distributed_c10d import Store

Value = TypeVar("Value")
_BEAT_SECONDS = 0.5
_LISTEN_SECONDS = 3.0  # a rank whose pulse stands still for so long is stopped, or gone
_ANSWER_SECONDS = 10.0  # the store itself may be gone


class Pulse:
    """This rank's pulse, beaten by a thread into the store that all ranks share, and an ear for those of the others.

    A process that is stopped or has ended has no pulse; one whose work hangs has. `holder` is who holds the store, at
    `address`.
    """

    def __init__(self, store: Store, rank: int, world_size: int, holder: str, address: str) -> None:
        self.store, self._rank, self._world_size = store, rank, world_size
        self._silence = f"{holder}, which holds their store, does not answer at {address}"
        self._answers = True
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, args=(_own(store),), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._ended.set()
        self._thread.join(_ANSWER_SECONDS)

    def diagnosis(self) -> str:
        """Which ranks keep the others waiting, in words. Takes some seconds; every rank that waits must call it."""
        return self._asked(self._listen) or self._silence

    def first_to_say(self, words: str) -> bool:
        """Whether no other rank has said `words` yet, so that a message that several ranks have is printed once."""
        return self._asked(lambda store: store.add(f"said {words}", 1)) in (1, None)

    def _asked(self, question: Callable[[Store], Value]) -> Value | None:
        """What the store answers, through a connection of its own; None if it is gone, or stopped with its process."""
        if not self._answers:  # nor would it now
            return None
        found: list[Value] = []

        def ask() -> None:
            with suppress(RuntimeError):
                found.append(question(_own(self.store)))

        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        thread.join(_ANSWER_SECONDS)
        self._answers = bool(found)
        return found[0] if found else None

    def _beat(self, store: Store) -> None:
        beat, who = 0, f"pid {os.getpid()} on {socket.gethostname()}"
        try:
            while not self._ended.wait(_BEAT_SECONDS if beat else 0):
                beat += 1
                store.set(f"pulse {self._rank}", f"{beat} {who}")
        except RuntimeError:  # the store is gone, and so is whoever would listen
            return

    def _listen(self, store: Store) -> str:
        store.set(f"waits {self._rank}", "")
        others = [rank for rank in range(self._world_size) if rank != self._rank]
        before = {rank: self._heard(store, rank) for rank in others}
        time.sleep(_LISTEN_SECONDS)
        after = {rank: self._heard(store, rank) for rank in others}
        silent = [rank for rank in others if before[rank] == after[rank]]
        late = [rank for rank in others if not store.check([f"waits {rank}"])]
        named = [f"rank {rank} ({after[rank].partition(' ')[2] or 'it has not joined'})" for rank in silent or late]
        if silent:
            return f"{', '.join(named)} shows no sign of life"
        if late:
            return f"{', '.join(named)} is alive, but did not come to the exchange that the others wait in"
        return "all ranks are alive and wait for each other"

    @staticmethod
    def _heard(store: Store, rank: int) -> str:
        key = f"pulse {rank}"
        return store.get(key).decode() if store.check([key]) else ""


def _own(store: Store) -> Store:
    """The same store through a connection of its own, for another thread: an answer that is awaited blocks it."""
    found: Store = store.clone()  # type: ignore[attr-defined]  # which torch's hints leave out
    return found
