"""Many members on many samples: each image is decoded once, and every member and view is made of it on the device."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn

from configs.console import plain_console
from configs.errors import UserError
from configs.infer import InferConfig
from configs.machine import available_memory
from configs.schema import LoaderConfig, MetaKind
from engine.default_speed import predicts_compiled
from engine.distributed import Ranks
from engine.evaluate import Describe, Scorer, Scores, no_statistics, score
from engine.members import LoadedMember, Member, load_member, within_memory
from engine.picture_statistics import picture_statistics
from engine.precision import autocast_of, chosen_dtype
from engine.prepare_step import CompiledNetwork
from loaders.batch import Batch
from loaders.loader import Loader
from loaders.order import Indices, Partition
from loaders.shards import ShardSet
from prep.metadata import FEATURES


@dataclass(frozen=True, kw_only=True)
class Pass:
    """Samples to predict, int64 [N] rows of the shard set, and by whom."""

    rows: Indices
    members: Sequence[Member]


@dataclass(frozen=True, kw_only=True)
class Found:
    """What the members of a pass said of its samples, sorted by row.

    index: int64 [N]; probability: float64 [V, N] by the member's name; statistics: float64 [N, F] of the
    pixels, F = 0 without --ensemble.
    """

    index: npt.NDArray[np.int64]
    probability: dict[str, npt.NDArray[np.float64]]
    statistics: npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Inference:
    """What the passes gave, in their order; the checkpoints that were used; and what the user should know."""

    found: list[Found]
    loaded: dict[str, dict[str, Any]]
    remarks: list[str]


def predict_shards(config: InferConfig, shards: ShardSet, passes: Sequence[Pass], ranks: Ranks) -> Inference:
    """Predict every sample of every pass by every member of it; the same result on every rank.

    Members are loaded together as far as memory allows, in groups otherwise. Then the pixels of the first pass over an
    image are kept in memory if they fit, or it is decoded again; a remark says which. On a GPU, backbones with much to
    predict are compiled (engine/default_speed.py), or a remark says why not.
    """
    members = list({member.name: member for each in passes for member in each.members}.values())
    groups = within_memory(members, _budget(config, ranks.device))
    rows = np.concatenate([each.rows for each in passes])
    loader_config, remarks = _pixels(config.loader, len(groups), len(rows) * 3 * shards.size**2, ranks)
    loaded: dict[str, dict[str, Any]] = {}
    parts: list[list[Found]] = [[] for _ in passes]
    threads, here = ranks.threads, ranks.local_world_size
    todo = _forward_passes(config, passes, ranks)
    with Loader(loader_config, shards, rows, ranks.device, threads=threads, ranks_here=here) as loader:
        remarks += loader.remarks
        for group in groups:
            ready = [load_member(member, config.checkpoint, ranks.device).folded() for member in group]
            for each in ready:
                loaded[each.member.name] = {"sha256": each.sha256, "chosen": each.chosen}
                remarks += _remarks(each)
            networks = {
                each.member.name: _compiled(config, each, remarks, ranks)
                for each in ready
                if predicts_compiled(todo[each.member.config["backbone"]], on_gpu=ranks.device.type == "cuda")
            }
            for number, each_pass in enumerate(passes):
                names = {member.name for member in each_pass.members}
                chosen = [each for each in ready if each.member.name in names]
                if chosen:
                    parts[number].append(_predict(config, loader, each_pass.rows, chosen, networks, ranks))
    return Inference(found=[_joined(each) for each in parts], loaded=loaded, remarks=remarks)


def score_members(
    config: InferConfig,
    members: Sequence[LoadedMember],
    batches: Iterable[Batch],
    kinds: Sequence[MetaKind],
    ranks: Ranks,
    *,
    describe: Describe = picture_statistics,
    networks: Mapping[str, nn.Module] = MappingProxyType({}),
) -> Scores:
    """`engine.evaluate.score` by loaded members, of batches whose meta vectors are those of `kinds` side by side.

    networks: by a member's name, what runs in place of its own network.
    Raises UserError where a prediction is not finite.
    """
    ends = np.cumsum([len(FEATURES[kind]) for kind in kinds]).tolist()
    columns = {kind: slice(end - len(FEATURES[kind]), end) for kind, end in zip(kinds, ends, strict=True)}
    scorers = [
        Scorer(
            network=networks.get(each.member.name, each.network),
            objective=each.objective,
            columns=columns[each.member.meta],
        )
        for each in members
    ]
    autocast = autocast_of(chosen_dtype(config.precision, ranks.device), ranks.device)
    found = score(scorers, batches, ranks, autocast=autocast, views=config.views, describe=describe)
    for each, probability in zip(members, found.probability, strict=True):
        wrong = int((~np.isfinite(probability)).any(axis=0).sum())
        if wrong:
            raise UserError(
                f"{wrong} of {len(found.index)} predictions of {each.path} are NaN: its weights are damaged, or do not "
                "fit this precision; try --precision fp32, or train this member again"
            )
    return found


def kinds_of(members: Iterable[Member]) -> list[MetaKind]:
    """The kinds of meta vectors that members need, each once."""
    return list(dict.fromkeys(member.meta for member in members))


def partition_of(samples: int, batch_size: int, ranks: Ranks) -> Partition:
    """How the ranks share samples: each once, in equal batches of `batch_size` at most over all ranks (rounded up)."""
    local = -(-min(batch_size, samples) // ranks.world_size)
    return Partition(
        samples=samples,
        batch_size=local * ranks.world_size,
        rank=ranks.rank,
        world_size=ranks.world_size,
        pad=False,
    )


def with_bar(batches: Iterable[Batch], total: int, title: str, ranks: Ranks) -> Iterator[Batch]:
    """The batches, with a progress bar where the first rank has a terminal."""
    console = plain_console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    shown = ranks.first and console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=not shown) as progress:
        yield from progress.track(batches, total=total, description=title)


def _forward_passes(config: InferConfig, passes: Sequence[Pass], ranks: Ranks) -> Counter[str]:
    """Batches x views of all members of each backbone."""
    found: Counter[str] = Counter()
    for each in passes:
        steps = partition_of(len(each.rows), config.batch_size, ranks).steps
        for member in each.members:
            found[member.config["backbone"]] += steps * config.views
    return found


def _compiled(config: InferConfig, loaded: LoadedMember, remarks: list[str], ranks: Ranks) -> CompiledNetwork:
    """A member's network, compiled for whole batches."""
    local = -(-config.batch_size // ranks.world_size)
    name = loaded.member.name
    return CompiledNetwork(
        loaded.network, local, lambda why: remarks.append(f"{name}: predicting without compilation, because {why}")
    )


def _predict(
    config: InferConfig,
    loader: Loader,
    rows: Indices,
    members: Sequence[LoadedMember],
    networks: Mapping[str, nn.Module],
    ranks: Ranks,
) -> Found:
    partition = partition_of(len(rows), config.batch_size, ranks)
    kinds = kinds_of(each.member for each in members)
    batches: Iterator[Batch] = loader.eval_batches(rows, partition, meta=kinds)
    title = f"{len(rows):,} images, {len(members)} members"
    batches = with_bar(batches, partition.steps, title, ranks)
    describe = picture_statistics if config.ensemble else no_statistics
    found = score_members(config, members, batches, kinds, ranks, describe=describe, networks=networks)
    names = [each.member.name for each in members]
    probability = dict(zip(names, found.probability, strict=True))
    return Found(index=found.index, probability=probability, statistics=found.statistics)


def _joined(parts: Sequence[Found]) -> Found:
    """The same samples, predicted by one group of members after the other."""
    probability = {name: values for part in parts for name, values in part.probability.items()}
    return replace(parts[0], probability=probability)


def _budget(config: InferConfig, device: torch.device) -> int:
    if config.memory_gb:
        return int(config.memory_gb * 1e9)
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_memory()
    return free // 2


def _pixels(config: LoaderConfig, groups: int, needed: int, ranks: Ranks) -> tuple[LoaderConfig, list[str]]:
    """Where the pixels of further groups come from: memory, where a quarter of it holds them, else the JPEGs again."""
    if groups == 1 or config.cache != "none":
        return config, []
    free = available_memory() // ranks.local_world_size
    keep = ranks.all_of(needed * 4 <= free)
    way = f"kept in memory ({needed / 1e9:.1f} GB)" if keep else "decoded again for each, because memory is short"
    remark = f"the members' weights do not fit --memory-gb together: {groups} groups, the images are {way}"
    return (replace(config, cache="ram") if keep else config), [remark]


def _remarks(loaded: LoadedMember) -> list[str]:
    name = loaded.member.name
    if not loaded.finished:
        return [f"warning: {loaded.path} is the best epoch so far of a member whose training is not finished"]
    return [f"{name}: trained on all rows, so that no out-of-fold row judges it"] * (loaded.member.fold is None)
