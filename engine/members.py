"""Trained members found under a run folder by their config.yaml, and loaded for inference."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml

from configs.errors import UserError
from configs.files import is_there
from configs.schema import Checkpoint, MetaKind
from engine.checkpoint import BEST, LAST, digests, read_checkpoint
from engine.network import rebuilt_network
from engine.records import SETTINGS
from loaders.shards import ShardSet
from models.folding import folded
from models.fusion import FusionModel
from models.losses import Objective
from prep.files import file_sha256
from prep.metadata import FEATURES


@dataclass(frozen=True, kw_only=True)
class Member:
    """A member as its folder describes it, before its weights are read.

    name: the folders below the run folder, joined by _; model: the name without the last of them, which members that
    differ only in their fold share; fold: the one it was trained without, None if it was trained on all rows; config:
    its settings; facts: what it was trained on (image size, meta vector, hashes).
    """

    name: str
    model: str
    folder: Path
    fold: int | None
    config: dict[str, Any]
    facts: dict[str, Any]

    @property
    def size(self) -> int:
        """Edge of its images, in pixels."""
        return int(self.facts["size"])

    @property
    def meta(self) -> MetaKind:
        """The kind of its meta vectors."""
        kind: MetaKind = self.facts["meta_kind"]
        return kind


@dataclass(frozen=True, kw_only=True)
class LoadedMember:
    """A member's network, ready to predict.

    path: the checkpoint, and sha256 its content; chosen: whether these weights were chosen on the held-out fold, which
    makes out-of-fold figures optimistic; finished: whether its training is.
    """

    member: Member
    path: Path
    sha256: str
    chosen: bool
    finished: bool
    network: FusionModel
    objective: Objective

    def folded(self) -> "LoadedMember":
        """The same member, with its batch norms folded into its convolutions: faster, and no longer its state_dict."""
        device = next(self.network.parameters()).device
        image = torch.randint(0, 256, (1, self.member.size, self.member.size, 3), dtype=torch.uint8)
        meta = torch.zeros(1, len(FEATURES[self.member.meta]))
        return replace(self, network=folded(self.network, image.to(device), meta.to(device)))


def find_members(runs: Path) -> list[Member]:
    """Every member below `runs`, sorted by folder. Raises UserError if there is none."""
    if not runs.is_dir():
        raise UserError(f"--runs {runs}: no such folder; give the folder that train.py --out wrote")
    folders = sorted(path.parent for path in runs.rglob("*") if path.name == SETTINGS)  # broken links, too
    members = [_described(folder, runs) for folder in folders if any(is_there(folder / name) for name in (LAST, BEST))]
    if not members:
        raise UserError(
            f"no trained member ({SETTINGS} beside {LAST}) below {runs}: train one with train.py --out {runs}"
        )
    return members


def _described(folder: Path, runs: Path) -> Member:
    path = folder / SETTINGS
    try:
        if not path.is_file():  # reading a pipe would wait for ever
            raise FileNotFoundError("it is no file")
        settings = yaml.safe_load(path.read_bytes())
        config, facts = settings["config"], settings["facts"]
        if not isinstance(config["backbone"], str) or type(config["fold"]) not in (int, type(None)):
            raise TypeError(f"backbone={config['backbone']!r}, fold={config['fold']!r}")
        if type(facts["size"]) is not int or facts["meta_kind"] not in FEATURES:
            raise TypeError(f"size={facts['size']!r}, meta_kind={facts['meta_kind']!r}")
        parts = folder.relative_to(runs).parts or (folder.name,)
        return Member(
            name="_".join(parts),
            model="_".join(parts[:-1]) or config["backbone"],
            folder=folder,
            fold=config["fold"],
            config=config,
            facts={name: facts[name] for name in ("size", "meta_kind", "labels_sha256", "meta_sha256")},
        )
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise UserError(
            f"{path} does not describe a member ({reason}): train it again, or remove the folder"
        ) from error


def require_fit(member: Member, shards: ShardSet) -> None:
    """Raise UserError if the member was trained on other labels, another meta vector or another image size."""
    for name, now in digests(shards.manifest.labels_sha256, member.meta).items():
        if member.facts[name] != now:
            raise UserError(
                f"{member.folder} was trained with {name}={member.facts[name]}, {shards.folder} has {now}: pass the "
                "--shards it was trained on, or a set built by this code from the same tables with the same folds"
            )
    if member.size != shards.size:
        raise UserError(
            f"{member.folder} was trained at {member.size} px, but {shards.folder} holds images of {shards.size} px: "
            f"pass a shard set built with --size {member.size}"
        )


def load_member(member: Member, checkpoint: Checkpoint, device: torch.device) -> LoadedMember:
    """Rebuild the member's network on `device` from last.pt or best.pt; its moving average where it has one.

    A member whose training is not finished predicts with its best epoch so far. Raises UserError if it has none, or if
    a checkpoint does not belong to the member's config.yaml.
    """
    last, best = member.folder / LAST, member.folder / BEST
    state: dict[str, Any] = read_checkpoint(last) if is_there(last) else {"finished": False}
    finished = bool(state["finished"])
    path = last if finished and (checkpoint == "last" or member.fold is None) else best
    if path == best:
        if not is_there(best):
            raise UserError(f"{member.folder} is not finished and has no {BEST}: finish it, or move it out of --runs")
        state = read_checkpoint(best)
    then = {**state["facts"], **{name: state["config"].get(name) for name in ("backbone", "fold")}}
    for name, known in {**member.facts, "backbone": member.config["backbone"], "fold": member.fold}.items():
        if then[name] != known:
            raise UserError(
                f"{path} was trained with {name}={then[name]}, the {SETTINGS} beside it says {known}: train this "
                "member again"
            )
    weights = state["model"] if state.get("average") is None else state["average"]
    network, objective = rebuilt_network(state["config"], weights, size=member.size, device=device, path=path)
    return LoadedMember(
        member=member,
        path=path,
        sha256=file_sha256(path),
        chosen=path == best,
        finished=finished,
        network=network,
        objective=objective,
    )


def within_memory(members: Sequence[Member], budget: int) -> list[list[Member]]:
    """Split members into groups, in their order, whose weights fit into `budget` bytes together; one at least in each.

    A member's weights are counted by the size of its smallest checkpoint, which holds little else.
    """
    groups: list[list[Member]] = []
    left = 0
    for member in members:
        files = [member.folder / name for name in (LAST, BEST) if (member.folder / name).is_file()]
        needed = min((file.stat().st_size for file in files), default=0)
        if not groups or needed > left:
            groups.append([])
            left = budget
        groups[-1].append(member)
        left -= needed
    return groups
