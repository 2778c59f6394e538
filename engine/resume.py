"""Checkpoints of a run: which one belongs to it, what may differ, and best.pt made from last.pt."""

from pathlib import Path
from typing import Any

import torch

from configs.errors import UserError
from configs.schema import MetaKind
from engine.checkpoint import load_checkpoint, save_checkpoint
from prep.metadata import meta_digest

LAST, BEST, OOF, CURVES = "last.pt", "best.pt", "oof.parquet", "training_curves.png"
# Settings that may differ between a run and its continuation: they change where, how fast and in which pieces.
_FREE = {
    *("shards", "out", "resume", "device", "precision", "loader", "speed", "autotune"),
    *("accumulate", "sync_batchnorm", "save_every", "log_every"),
}


def digests(labels_sha256: str, meta: MetaKind) -> dict[str, str]:
    """What a model and a shard set must share: the hashes of (key, fold, target) and of the meta vector's meaning.

    The images' size and encoding are not among it: members of one ensemble may differ in them.
    """
    return {"labels_sha256": labels_sha256, "meta_sha256": meta_digest(meta)}


def continued(folder: Path, now: dict[str, Any]) -> dict[str, Any] | None:
    """The state of the last.pt in `folder`, on the CPU, None where there is none.

    `now` holds the settings and facts of this run. Raises UserError, naming both values, where the checkpoint was
    made with others.
    """
    path = folder / LAST
    if not path.is_file():
        return None
    saved = load_checkpoint(path, torch.device("cpu"))
    then = _flat({**saved["config"], **saved["facts"]})
    for name, value in _flat(now).items():
        if name.split(".")[0] not in _FREE and then.get(name) != value:
            raise UserError(
                f"{path} was made with {name}={then.get(name)!r}, now it is {value!r}: choose another --out to "
                "keep it, or start anew with --resume never"
            )
    return saved


def save_best(state: dict[str, Any], folder: Path) -> None:
    """Write best.pt from `state`, what last.pt of the same epoch's end holds."""
    kept = {name: state[name] for name in ("config", "facts", "best", "validation", "validation_index")}
    model = state["model"] if state["average"] is None else state["average"]
    save_checkpoint({**kept, "model": model}, folder / BEST)


def mend_best(saved: dict[str, Any], folder: Path) -> None:
    """Write best.pt where the run ended between last.pt, which is `saved`, and the best.pt of the same epoch."""
    path = folder / BEST
    if saved["step"] or saved["best"]["epoch"] != saved["epoch"] - 1:
        return
    if not path.is_file() or load_checkpoint(path, torch.device("cpu"))["best"] != saved["best"]:
        save_best(saved, folder)


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    """Nested settings by the names that the command line gives them: optim.lr."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        inner = (
            {f"{name}.{key}": one for key, one in _flat(value).items()} if isinstance(value, dict) else {name: value}
        )
        found |= inner
    return found
