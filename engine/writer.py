"""The one process that writes in a member's folder, over all hosts: a lock may not hold on a network file system."""

import os
import secrets
import socket
from pathlib import Path

from configs.errors import UserError
from configs.files import written_whole

WRITER = "train.writer"


class Writer:
    """This process, from its start until another one starts to train the same member: then it writes nothing more.

    Each leaves a token of its own in the folder as it starts; every save compares it. What is left is the moment
    between a comparison and the renaming that follows it, and, on NFS, the time for which its cache holds a name.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / WRITER
        self._name = f"pid {os.getpid()} on {socket.gethostname()}"
        self._line = f"{self._name} {secrets.token_hex(8)}\n"
        with written_whole(self._path) as file:
            file.write(self._line.encode())

    def check(self) -> None:
        """Raise UserError, which names the process that has started since, if one has."""
        found = self._path.read_text(errors="replace") if self._path.is_file() else ""
        if found != self._line:
            other = found[:200].rpartition(" ")[0] or f"{WRITER} is gone"
            raise UserError(
                f"{self._path.parent}: another process trains this member now ({other}); this one ({self._name}) ends "
                "and writes nothing more"
            )
