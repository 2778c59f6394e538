"""Signs of life of the ranks: who has fallen silent when the others wait in vain."""

import os
import socket
import threading
import time
from datetime import timedelta

from torch.distributed.distributed_c10d import Store

_BEAT_SECONDS = 0.5
_LISTEN_SECONDS = 3.0  # a rank whose pulse stands still for so long is stopped, or gone
_ANSWER_SECONDS = 10.0  # the store itself may be gone


class Pulse:
    """This rank's pulse, beaten by a thread into the store that all ranks share, and an ear for those of the others.

    A process that is stopped or has ended has no pulse; one whose work hangs has.
    """

    def __init__(self, store: Store, rank: int, world_size: int) -> None:
        self.store, self._rank, self._world_size = store, rank, world_size
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, args=(_own(store),), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._ended.set()
        self._thread.join()

    def diagnosis(self) -> str:
        """Which ranks keep the others waiting, in words. Takes some seconds; every rank that waits must call it."""
        found: list[str] = []
        thread = threading.Thread(target=self._listen, args=(_own(self.store), found), daemon=True)
        thread.start()
        thread.join(_ANSWER_SECONDS)
        return found[0] if found else "the launcher, or the rank that holds its store, does not answer"

    def first_to_say(self, words: str) -> bool:
        """Whether no other rank has said `words` yet, so that a message that several ranks have is printed once."""
        try:
            return bool(self.store.add(f"said {words}", 1) == 1)
        except RuntimeError:  # the store is gone
            return True

    def _beat(self, store: Store) -> None:
        beat, who = 0, f"pid {os.getpid()} on {socket.gethostname()}"
        try:
            while not self._ended.wait(_BEAT_SECONDS if beat else 0):
                beat += 1
                store.set(f"pulse {self._rank}", f"{beat} {who}")
        except RuntimeError:  # the store is gone, and so is whoever would listen
            return

    def _listen(self, store: Store, found: list[str]) -> None:
        store.set_timeout(timedelta(seconds=_ANSWER_SECONDS))
        try:
            store.set(f"waits {self._rank}", "")
            others = [rank for rank in range(self._world_size) if rank != self._rank]
            before = {rank: self._heard(store, rank) for rank in others}
            time.sleep(_LISTEN_SECONDS)
            after = {rank: self._heard(store, rank) for rank in others}
            silent = [rank for rank in others if before[rank] == after[rank]]
            late = [rank for rank in others if not store.check([f"waits {rank}"])]
        except RuntimeError:
            return
        named = [f"rank {rank} ({after[rank].partition(' ')[2] or 'it has not joined'})" for rank in silent or late]
        if silent:
            found.append(f"{', '.join(named)} shows no sign of life")
        elif late:
            found.append(f"{', '.join(named)} is alive, but did not come to the exchange that the others wait in")
        else:
            found.append("all ranks are alive and wait for each other")

    @staticmethod
    def _heard(store: Store, rank: int) -> str:
        key = f"pulse {rank}"
        return store.get(key).decode() if store.check([key]) else ""


def _own(store: Store) -> Store:
    """The same store through a connection of its own, for another thread: an answer that is awaited blocks it."""
    found: Store = store.clone()  # type: ignore[attr-defined]  # which torch's hints leave out
    return found
