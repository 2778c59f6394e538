"""What does inference cost beyond the networks? Members x views on a shard set, beside their bare forward passes.

    python -m benchmarks.inference --runs runs/main --shards shards/isic

ours: decode, views, every member, results on the host, as infer.py does it. bare: the same number of forward passes of
the same networks on batches that lie ready on the device. They take turns.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Literal

import torch

from benchmarks.record import write
from benchmarks.rounds import in_turns, ratios, spread
from configs.cli import parse, run_command
from configs.errors import check
from configs.infer import InferConfig
from configs.schema import Device
from engine.distributed import Ranks, joined_ranks
from engine.inference import kinds_of, partition_of, score_members
from engine.members import LoadedMember, find_members, load_member
from engine.precision import autocast_of, chosen_dtype
from loaders.batch import TENSORS, Batch
from loaders.loader import Loader
from loaders.shards import ShardSet
from loaders.symmetry import view_of
from prep.metadata import FEATURES


@dataclass(frozen=True, kw_only=True)
class InferenceBenchmarkConfig:
    """What `python -m benchmarks.inference` is asked for."""

    runs: str = "runs/main"
    """Folder with the members, all of one kind of meta vector."""
    shards: str = "shards/isic"
    """Folder of the shard set whose training images are predicted."""
    members: int = 4
    """Members at most (1 or more)."""
    views: Literal[1, 2, 4, 8] = 4
    """Test-time views."""
    images: int = 2048
    """Images of a round, at most (1 or more)."""
    batch_size: int = 128
    """Images of a batch (1 or more)."""
    rounds: int = 5
    """Rounds (1 or more)."""
    device: Device = "auto"
    """auto takes the GPU where there is one."""
    out: str = "benchmarks/results/inference.json"
    """Where the record is written."""

    def __post_init__(self) -> None:
        for name in ("members", "images", "batch_size", "rounds"):
            check(getattr(self, name) >= 1, name, getattr(self, name), "give 1 or more")


def main(argv: Sequence[str]) -> None:
    """Parse, measure, record."""
    description = (__doc__ or "").split("\n")[0]
    config = parse(InferenceBenchmarkConfig, argv, prog="python -m benchmarks.inference", description=description)
    infer = InferConfig(views=config.views, device=config.device)
    with joined_ranks(config.device) as ranks:
        shards = ShardSet(Path(config.shards))
        rows = shards.split_rows("train")[: config.images]
        partition = partition_of(len(rows), config.batch_size, ranks)
        found = find_members(Path(config.runs))[: config.members]
        members = [load_member(member, "last", ranks.device) for member in found]
        kinds = kinds_of(found)[:1]
        with Loader(infer.loader, shards, rows, ranks.device, threads=ranks.threads) as loader:
            ready = [_kept(batch) for batch in islice(loader.eval_batches(rows, partition, meta=kinds), 2)]

            def ours() -> float:
                begin = time.perf_counter()
                score_members(infer, members, loader.eval_batches(rows, partition, meta=kinds), kinds, ranks)
                return time.perf_counter() - begin

            turns = {"ours": ours, "bare": lambda: _bare(infer, members, ready, partition.steps, ranks)}
            in_turns(turns, 1)  # warm
            seconds = in_turns(turns, config.rounds)
    record = {
        "what": "Seconds of members x views on training images, decoded once, beside the bare forward passes",
        "backbones": ", ".join(dict.fromkeys(str(member.config["backbone"]) for member in found)),
        "members": len(found),
        "size": shards.size,
        "views": config.views,
        "images": len(rows),
        "batch_size": partition.batch_size,
        "rounds": config.rounds,
        "seconds": {name: spread(values) for name, values in seconds.items()},
        "ratio": spread(ratios(seconds["ours"], seconds["bare"])),
    }
    write(Path(config.out), record)


@torch.inference_mode()
def _bare(
    config: InferConfig, members: Sequence[LoadedMember], ready: Sequence[Batch], steps: int, ranks: Ranks
) -> float:
    autocast = autocast_of(chosen_dtype(config.precision, ranks.device), ranks.device)
    views = [[view_of(batch.image, view).contiguous() for view in range(config.views)] for batch in ready]
    _wait(ranks.device)
    begin = time.perf_counter()
    for step in range(steps):
        batch, shown = ready[step % len(ready)], views[step % len(ready)]
        for member in members:
            meta = batch.meta[:, : len(FEATURES[member.member.meta])]
            for image in shown:
                with autocast():
                    member.network(image, meta)
    _wait(ranks.device)
    return time.perf_counter() - begin


def _kept(batch: Batch) -> Batch:
    """A copy in memory of its own: the stream's may be written again."""
    return replace(batch, **{name: getattr(batch, name).clone() for name in TENSORS})


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    run_command(main)
