"""Checkpoints: what they contain and which run they belong to; written atomically, read without executing code.

A run continues from last.pt; infer.py loads last.pt or best.pt. Each file ends with the SHA-256 of what stands before,
because torch does not check what it reads: it is a zip file, whose readers ignore what follows its directory.
"""

import hashlib
import io
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from configs.errors import UserError
from configs.files import is_there, written_whole
from configs.schema import MetaKind, TrainConfig
from engine.evaluate import Predictions
from engine.state import RunState
from engine.trainer import Trainer
from prep.manifest import Manifest
from prep.metadata import FEATURES, meta_digest

LAST, BEST = "last.pt", "best.pt"
FORMAT = 3
# Settings that may change when a run is resumed: where, how fast and in how many parts it trains.
_MAY_CHANGE = {
    *("shards", "out", "resume", "device", "precision", "loader", "speed", "autotune", "launch"),
    *("accumulate", "sync_batchnorm", "save_every", "save_minutes", "log_every", "timeout"),
}
# What both files must hold, and what each of them holds besides.
_BOTH: dict[str, type] = {"format": int, "config": dict, "facts": dict, "best": dict, "model": dict}
_OF_LAST = {"epoch": int, "step": int, "finished": bool, "loss_sum": float, "optimizer": dict, "scaler": dict}
_EPOCHS_END = {"validation": Tensor, "validation_index": Tensor}
_FACTS = {"size", "meta_kind", "meta_features", "labels_sha256", "meta_sha256"}
_SEAL = b"\nsha256 "  # followed by 64 digits and a line end
_SEAL_BYTES = len(_SEAL) + 65


def checkpoint_of(
    config: TrainConfig,
    facts: dict[str, Any],
    state: RunState,
    loss_sum: Tensor,
    trainer: Trainer,
    predictions: Predictions | None,
) -> dict[str, Any]:
    """The content of last.pt: settings and facts, the run's state, the trainer's tensors, the epoch's predictions.

    loss_sum: float64 scalar on the device, over all ranks; the file holds it as a number.

    Learning rate, order, augmentation and dropout are functions of the state, so nothing else is needed.
    """
    content = {
        "config": asdict(config),
        "facts": facts,
        **state.values(),  # epoch, step, finished, best
        "loss_sum": loss_sum,
        **trainer.tensors(),  # model, average, optimizer, scaler
    }
    if predictions is not None:  # at the end of an epoch
        content["validation"] = torch.from_numpy(predictions.probability)
        content["validation_index"] = torch.from_numpy(predictions.index)
    return content


def save_best(content: dict[str, Any], folder: Path, check: Callable[[], None] | None = None) -> None:
    """Write best.pt from `content`, that of last.pt after the same epoch, with the model used for prediction."""
    kept = {name: content[name] for name in ("config", "facts", "best", "validation", "validation_index")}
    model = content["model"] if content["average"] is None else content["average"]
    save_checkpoint({**kept, "model": model}, folder / BEST, check)


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

    Raises UserError, naming both values, if it was made with other settings or facts.
    """
    path = folder / LAST
    if config.resume == "never" or not is_there(path):
        return None
    saved = read_checkpoint(path)
    then, now = _flat({**saved["config"], **saved["facts"]}), _flat({**asdict(config), **facts})
    for name in {**now, **then}:
        if name.split(".")[0] not in _MAY_CHANGE and then.get(name) != now.get(name):
            raise UserError(
                f"{path} was made with {name}={then.get(name)!r}, now it is {now.get(name)!r}: choose another --out to "
                "keep it, or start from scratch with --resume never"
            )
    return saved


def lost_best(saved: dict[str, Any], folder: Path) -> str | None:
    """Why best.pt cannot be used although `saved`, the content of last.pt, has a best epoch; None if it can."""
    if saved["best"]["epoch"] < 0:
        return None
    try:
        best = read_checkpoint(folder / BEST)
        if _shapes(best["model"]) != _shapes(saved["model"]):
            raise UserError(f"{folder / BEST} holds the weights of another network; {_remedy(folder / BEST)}")
    except UserError as error:
        return f"warning: {error}; pred_best in oof.parquet stays empty unless a later epoch is better"
    return None


def mend_best(saved: dict[str, Any], folder: Path) -> None:
    """Write best.pt if `saved`, the content of last.pt, is that of the best epoch and best.pt is not, or is damaged.

    Not while another process trains the member.
    """
    if saved["step"] or saved["best"]["epoch"] != saved["epoch"] - 1 or "validation" not in saved:
        return
    try:
        behind = read_checkpoint(folder / BEST)["best"] != saved["best"]
    except UserError:
        behind = True
    if behind:
        save_best(saved, folder)


def save_checkpoint(content: dict[str, Any], path: Path, check: Callable[[], None] | None = None) -> None:
    """Write `content` (tensors, numbers, strings, lists, dicts) to `path`, replacing it once everything is on disk.

    check: called before anything is written, and again just before the file is replaced; may raise.

    Raises UserError if it cannot be written; the previous file at `path` is then unchanged.
    """
    if check is not None:
        check()
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **content}, buffer)
    data = buffer.getbuffer()
    try:
        with written_whole(path, fsync=True, check=check) as file:
            file.write(data)
            file.write(_seal(data))
    except OSError as error:
        kept = "the previous one is kept" if path.is_file() else "there is no previous one"
        raise UserError(
            f"checkpoint {path} could not be written: {error.strerror or error}; {kept}: check free space and "
            "permissions, then run the same command again to continue"
        ) from error


def load_checkpoint(path: Path, device: torch.device) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote. Raises UserError for any other file, and for one that is damaged."""
    try:
        if not path.is_file():  # reading a pipe would wait for ever
            raise FileNotFoundError("there is no such file")
        data = path.read_bytes()
        content, seal = memoryview(data)[:-_SEAL_BYTES], data[-_SEAL_BYTES:]
        if not seal.startswith(_SEAL):
            raise ValueError("it does not end with its SHA-256, so it is cut off, or of another version")
        if seal != _seal(content):
            raise ValueError("its SHA-256 is not the one that it ends with, so it is damaged")
        found: dict[str, Any] = torch.load(io.BytesIO(data), map_location=device, weights_only=True)
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise ValueError("it is not of this version")
    # A file of another origin raises whatever its reader fails on first.
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} cannot be read as a checkpoint: {reason}; {_remedy(path)}") from error
    return found


def read_checkpoint(path: Path) -> dict[str, Any]:
    """last.pt or best.pt on the CPU. Raises UserError also if parts are missing or unknown, or weights not finite."""
    found = load_checkpoint(path, torch.device("cpu"))
    problem = _problem(found, {**_BOTH, **(_OF_LAST if path.name == LAST else _EPOCHS_END)})
    if problem:
        raise UserError(f"{path} is not sound: {problem}; {_remedy(path)}")
    return found


def _seal(data: memoryview) -> bytes:
    return _SEAL + hashlib.sha256(data).hexdigest().encode() + b"\n"


def _problem(found: dict[str, Any], kinds: dict[str, type]) -> str:
    """What is wrong with the content of a checkpoint whose parts must be of `kinds`; empty if nothing is."""
    for name, kind in kinds.items():
        if not isinstance(found.get(name), kind):
            return f"{name} is {'missing' if name not in found else f'no {kind.__name__}'}"
    unknown = found.keys() - kinds.keys() - _EPOCHS_END.keys() - {"average"}
    if unknown:
        return f"{min(unknown)} is unknown to this version"
    if found["facts"].keys() != _FACTS or found["best"].keys() != {"epoch", "score"}:
        return "facts or best have other fields than in this version"
    if min(found.get("epoch", 0), found.get("step", 0)) < 0:
        return "epoch or step is below 0"
    wrong = not_finite(found)
    return f"{wrong} holds NaN or infinity" if wrong else ""


def not_finite(content: dict[str, Any]) -> str:
    """The first weight, average or running statistic in `content` that is NaN or infinite; empty if none is."""
    for part in ("model", "average"):
        for name, value in (content.get(part) or {}).items():
            if not isinstance(value, Tensor) or not value.isfinite().all():
                return f"{part}.{name}"
    return ""


def _remedy(path: Path) -> str:
    """What to do about a checkpoint that cannot be used, and what can still be done without it."""
    last, best = path.with_name(LAST), path.with_name(BEST)
    if path.name == BEST and last.is_file():
        return f"remove it; {LAST} beside it is enough to train on, and for infer.py once its training is finished"
    if path.name == LAST and best.is_file():
        return f"remove it and train this member again; until then infer.py predicts with {BEST} beside it"
    return "remove it or train this member again"


def _shapes(weights: dict[str, Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (value.shape, value.dtype) for name, value in weights.items()}


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    """Nested settings under their command-line names, such as optim.lr."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        inner = _flat(value) if isinstance(value, dict) else None
        found |= {name: value} if inner is None else {f"{name}.{key}": one for key, one in inner.items()}
    return found
