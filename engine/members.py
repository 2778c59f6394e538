"""Trained members found under a run folder, loaded for inference."""

from dataclasses import dataclass
from pathlib import Path

import torch

from configs.errors import UserError
from configs.schema import MetaKind, ModelConfig
from engine.checkpoint import load_checkpoint
from engine.session import BEST
from loaders.shards import ShardSet
from models.fusion import FusionModel, build_model
from prep.metadata import FEATURES


@dataclass(frozen=True, kw_only=True)
class Member:
    """One trained network: its name (the folders below the run folder, joined by _), and what it wants to be shown."""

    name: str
    path: Path
    size: int
    meta: MetaKind
    model: FusionModel


def find_members(runs: Path) -> list[Path]:
    """The best.pt of every member below `runs`, in sorting order. Raises UserError where there is none."""
    if not runs.is_dir():
        raise UserError(f"--runs {runs}: no such folder; name the folder that train.py --out wrote")
    found = sorted(runs.rglob(f"fold*/{BEST}"))
    if not found:
        raise UserError(f"no trained member (foldK/{BEST}) below {runs}: train one with python train.py --out {runs}")
    return found


def load_member(path: Path, runs: Path, device: torch.device) -> Member:
    """Rebuild the network of a best.pt on `device`, ready to predict."""
    state = load_checkpoint(path, device)
    config, facts = state["config"], state["facts"]
    meta: MetaKind = facts["meta_kind"]
    if list(FEATURES[meta]) != facts["meta_features"]:
        raise UserError(
            f"{path} was trained on the meta vector {facts['meta_features']}, this code makes "
            f"{list(FEATURES[meta])}: use the version of the code that trained it"
        )
    model = build_model(
        config["backbone"],
        ModelConfig(**config["model"]),
        size=facts["size"],
        meta_features=len(FEATURES[meta]),
        weights="none",
    )
    model.load_state_dict(state["model"])
    layout = torch.channels_last if model.channels_last else torch.contiguous_format
    model.to(device=device, memory_format=layout).eval()  # type: ignore[call-overload]
    name = "_".join(path.parent.relative_to(runs).parts) or path.parent.name
    return Member(name=name, path=path, size=facts["size"], meta=meta, model=model)


def require_fit(member: Member, shards: ShardSet) -> None:
    """Raise UserError where `shards` are not of the size that the member was trained at."""
    if member.size != shards.size:
        raise UserError(
            f"{member.path} was trained at {member.size} px, but {shards.folder} holds images of {shards.size} px: "
            f"pass the --shards made with --size {member.size}"
        )
