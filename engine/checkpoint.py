"""Checkpoints: what they contain and which run they belong to; written atomically, read without executing code.

A run continues from last.pt; infer.py loads best.pt.
"""

import pickle
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from configs.errors import UserError
from configs.files import written_whole
from configs.schema import MetaKind, TrainConfig
from engine.evaluate import Predictions
from engine.state import RunState
from engine.trainer import Trainer
from prep.manifest import Manifest
from prep.metadata import FEATURES, meta_digest

LAST, BEST = "last.pt", "best.pt"
FORMAT = 2
# Settings that may change when a run is resumed: where, how fast and in how many parts it trains.
_MAY_CHANGE = {
    *("shards", "out", "resume", "device", "precision", "loader", "speed", "autotune"),
    *("accumulate", "sync_batchnorm", "save_every", "log_every"),
}


def checkpoint_of(
    config: TrainConfig,
    facts: dict[str, Any],
    state: RunState,
    loss_sum: float,
    trainer: Trainer,
    predictions: Predictions | None,
) -> dict[str, Any]:
    """The content of last.pt: settings and facts, the run's state, the trainer's tensors, the epoch's predictions.

    Learning rate, order, augmentation and dropout are functions of the state, so nothing else is needed.
    """
    content = {
        "config": asdict(config),
        "facts": facts,
        **state.values(),  # epoch, step, finished, best
        "loss_sum": loss_sum,  # over all ranks
        **trainer.tensors(),  # model, average, optimizer, scaler
    }
    if predictions is not None:  # at the end of an epoch
        content["validation"] = torch.from_numpy(predictions.probability)
        content["validation_index"] = torch.from_numpy(predictions.index)
    return content


def save_best(content: dict[str, Any], folder: Path) -> None:
    """Write best.pt from `content`, that of last.pt after the same epoch, with the model used for prediction."""
    kept = {name: content[name] for name in ("config", "facts", "best", "validation", "validation_index")}
    model = content["model"] if content["average"] is None else content["average"]
    save_checkpoint({**kept, "model": model}, folder / BEST)


def run_facts(config: TrainConfig, manifest: Manifest) -> dict[str, Any]:
    """What a checkpoint records about the data it was trained on."""
    kind = config.model.meta
    facts = {"size": manifest.size, "meta_kind": kind, "meta_features": list(FEATURES[kind])}
    return {**facts, **digests(manifest.labels_sha256, kind)}


def digests(labels_sha256: str, meta: MetaKind) -> dict[str, str]:
    """What a model and a shard set must share: the hashes of (key, fold, target) and of the meta vector's definition.

    The images' size and encoding are not part of them: shard sets that differ only in these have the same folds.
    """
    return {"labels_sha256": labels_sha256, "meta_sha256": meta_digest(meta)}


def saved_run(folder: Path, config: TrainConfig, facts: dict[str, Any]) -> dict[str, Any] | None:
    """The last.pt in `folder`, on the CPU; None if there is none, or if the config says to start from scratch.

    Rewrites best.pt if it is behind. Raises UserError, naming both values, if it was made with other settings or facts.
    """
    path = folder / LAST
    if config.resume == "never" or not path.is_file():
        return None
    saved = load_checkpoint(path, torch.device("cpu"))
    then = _flat({**saved["config"], **saved["facts"]})
    for name, value in _flat({**asdict(config), **facts}).items():
        if name.split(".")[0] not in _MAY_CHANGE and then.get(name) != value:
            raise UserError(
                f"{path} was made with {name}={then.get(name)!r}, now it is {value!r}: choose another --out to "
                "keep it, or start from scratch with --resume never"
            )
    _mend_best(saved, folder)
    return saved


def _mend_best(saved: dict[str, Any], folder: Path) -> None:
    """Write best.pt if the run ended between writing last.pt, which is `saved`, and best.pt of the same epoch."""
    path = folder / BEST
    if saved["step"] or saved["best"]["epoch"] != saved["epoch"] - 1:
        return
    if not path.is_file() or load_checkpoint(path, torch.device("cpu"))["best"] != saved["best"]:
        save_best(saved, folder)


def save_checkpoint(content: dict[str, Any], path: Path) -> None:
    """Write `content` (tensors, numbers, strings, lists, dicts) to `path`, replacing it once everything is on disk.

    Raises UserError if it cannot be written; the previous file at `path` is then unchanged.
    """
    try:
        with written_whole(path, fsync=True) as file:
            torch.save({"format": FORMAT, **content}, file)
    # torch reports some write errors as RuntimeError.
    except (OSError, RuntimeError) as error:
        kept = "the previous one is kept" if path.is_file() else "there is no previous one"
        reason = getattr(error, "strerror", None) or str(error).strip().split("\n")[0]
        raise UserError(
            f"checkpoint {path} could not be written: {reason}; {kept}: check free space and permissions, then run "
            "the same command again to continue"
        ) from error


def load_checkpoint(path: Path, device: torch.device) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote. Raises UserError for any other file."""
    try:
        content: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{path} cannot be read as a checkpoint: {reason}; remove it or train this member again"
        ) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{path} is not a checkpoint of this version: train this member again")
    return content


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    """Nested settings under their command-line names, such as optim.lr."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        inner = _flat(value) if isinstance(value, dict) else None
        found |= {name: value} if inner is None else {f"{name}.{key}": one for key, one in inner.items()}
    return found
