"""Trained members found under a run folder, loaded for inference."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from configs.errors import UserError
from configs.schema import MetaKind, ModelConfig, OptimConfig
from engine.checkpoint import BEST, digests, load_checkpoint
from engine.network import build_network
from engine.validate import OOF
from loaders.shards import ShardSet
from models.fusion import FusionModel
from models.losses import Objective


@dataclass(frozen=True, kw_only=True)
class Member:
    """One trained network: its name (the folders below the run folder, joined by _), and the inputs it expects.

    finished: whether its training is finished; otherwise this is its best epoch so far.
    """

    name: str
    path: Path
    size: int
    meta: MetaKind
    model: FusionModel
    objective: Objective
    facts: dict[str, Any]
    finished: bool


def find_members(runs: Path) -> list[Path]:
    """The best.pt of every member below `runs`, sorted by path. Raises UserError if there is none."""
    if not runs.is_dir():
        raise UserError(f"--runs {runs}: no such folder; give the folder that train.py --out wrote")
    found = sorted(runs.rglob(f"fold*/{BEST}"))
    if not found:
        raise UserError(f"no trained member (foldK/{BEST}) below {runs}: train one with python train.py --out {runs}")
    return found


def load_member(path: Path, runs: Path, device: torch.device) -> Member:
    """Rebuild the network of a best.pt on `device`, ready to predict."""
    state = load_checkpoint(path, device)
    config, facts = state["config"], state["facts"]
    model, objective = build_network(
        config["backbone"],
        ModelConfig(**config["model"]),
        OptimConfig(**config["optim"]),
        config["target"],
        size=facts["size"],
        weights="none",
        device=device,
    )
    model.load_state_dict(state["model"])
    name = "_".join(path.parent.relative_to(runs).parts) or path.parent.name
    return Member(
        name=name,
        path=path,
        size=facts["size"],
        meta=facts["meta_kind"],
        model=model.eval(),
        objective=objective,
        facts=facts,
        finished=(path.parent / OOF).is_file(),
    )


def require_fit(member: Member, shards: ShardSet) -> None:
    """Raise UserError if the member was trained on other labels, another meta vector or another image size."""
    for name, now in digests(shards.manifest.labels_sha256, member.meta).items():
        if member.facts[name] != now:
            raise UserError(
                f"{member.path} was trained with {name}={member.facts[name]}, {shards.folder} has {now}: pass the "
                "--shards it was trained on, or a set built by this code from the same tables with the same folds"
            )
    if member.size != shards.size:
        raise UserError(
            f"{member.path} was trained at {member.size} px, but {shards.folder} holds images of {shards.size} px: "
            f"pass a shard set built with --size {member.size}"
        )
