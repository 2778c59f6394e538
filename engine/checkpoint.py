"""Checkpoints: whole or not there at all, and loaded without running anything that is in them."""

import os
import pickle
from pathlib import Path
from typing import Any

import torch

from configs.errors import UserError

FORMAT = 2


def save_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Write `state` (tensors, numbers, strings, lists, dicts) to `path`, which is replaced only when all is on disk.

    Raises UserError where it cannot be written; what stood at `path` before is then still there.
    """
    temporary = path.with_suffix(".tmp")
    try:
        with temporary.open("wb") as file:
            torch.save({"format": FORMAT, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    # torch passes some failures of a write on as its own.
    except (OSError, RuntimeError) as error:
        temporary.unlink(missing_ok=True)
        kept = "the one written before is kept" if path.is_file() else "there was none before"
        reason = getattr(error, "strerror", None) or str(error).strip().split("\n")[0]
        raise UserError(
            f"checkpoint {path} could not be written: {reason}; {kept}. Make room, then start again: it goes on from "
            "what is kept"
        ) from error


def load_checkpoint(path: Path, device: torch.device) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote. Raises UserError where the file is not that."""
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{path} cannot be read as a checkpoint: {reason}; remove it or train this member anew"
        ) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise UserError(f"{path} is not a checkpoint of this version: train this member anew")
    return state
