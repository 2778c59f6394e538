"""Predict the test images with every trained member, and with the ensemble of them.

    python infer.py --ensemble --runs runs/main --shards shards/isic --out outputs

Writes OUT/submission_MEMBER.csv for each member and, with --ensemble, OUT/submission_ensemble.csv, all in Kaggle's
format (image_name,target), target being a probability. With --split extra the images are those of an outside set, and
the files are named extra_*.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from configs.cli import parse, run_command
from configs.errors import UserError
from configs.schema import InferConfig
from prep.files import written_whole

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from loaders.order import Indices
    from loaders.shards import ShardSet


def main(argv: Sequence[str]) -> None:
    """Parse, load each member, predict, write."""
    config = parse(InferConfig, argv, prog="python infer.py", description=(__doc__ or "").split("\n")[0])
    # Imported after parsing: torch is slow to import, and --help should not wait for it.
    from engine.distributed import joined_ranks
    from engine.evaluate import predict
    from engine.members import find_members, load_member, require_fit
    from engine.precision import autocast_of, chosen_dtype
    from evaluation.ensemble import mean_probability
    from loaders.loader import Loader
    from loaders.order import Partition
    from loaders.shards import ShardSet

    out, runs = Path(config.out), Path(config.runs)
    kind = {"test": "submission", "extra": "extra"}[config.split]
    paths = find_members(runs)
    with joined_ranks(config.device) as ranks, closing(ShardSet(Path(config.shards))) as shards:
        rows = split_rows(shards, config)
        local = -(-config.batch_size // ranks.world_size)
        partition = Partition(
            samples=len(rows), batch_size=local * ranks.world_size, rank=ranks.rank, world_size=ranks.world_size
        )
        autocast = autocast_of(chosen_dtype(config.precision, ranks.device), ranks.device)
        say = print if ranks.first else (lambda _: None)
        predicted = []
        with Loader(
            config.loader, shards, rows, ranks.device, threads=ranks.threads, ranks_here=ranks.local_world_size
        ) as loader:
            for remark in loader.remarks:
                say(remark)
            for path in paths:
                member = load_member(path, runs, ranks.device)
                require_fit(member, shards)
                if not member.finished:
                    say(f"warning: {member.path} is the best epoch so far of a member whose training is not finished")
                batches = loader.eval_batches(rows, partition, meta=member.meta)
                found = predict(member.model, member.objective, batches, ranks, autocast=autocast, views=config.views)
                if len(found.index) < len(rows):
                    missing = len(rows) - len(found.index)
                    say(f"warning: {missing} corrupt {config.split} images have no prediction and are left out")
                keys = shards.key.take(found.index).to_pylist()
                predicted.append(found.probability)
                if ranks.first:
                    write_submission(out / f"{kind}_{member.name}.csv", keys, found.probability)
        if config.ensemble and ranks.first:
            write_submission(out / f"{kind}_ensemble.csv", keys, mean_probability(predicted))


def split_rows(shards: ShardSet, config: InferConfig) -> Indices:
    """The samples to predict. Raises UserError if there are none."""
    rows = shards.split_rows(config.split)
    if not len(rows):
        remedy = {"test": "an --isic2020 folder that holds test.csv", "extra": "--extra CSV"}[config.split]
        raise UserError(f"{shards.folder} has no {config.split} images: build it with {remedy}")
    return rows


def write_submission(path: Path, keys: list[str], probability: npt.NDArray[np.float64]) -> None:
    """Write image_name,target, sorted by name; the file appears only once it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{key},{value:.9f}" for key, value in sorted(zip(keys, probability, strict=True))]
    with written_whole(path) as file:
        file.write("\n".join(["image_name,target", *lines, ""]).encode())
    print(f"{path}: {len(lines):,} images")


if __name__ == "__main__":
    run_command(main)
