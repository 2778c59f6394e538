"""Predict the test images with every trained member, and with all of them together.

    python infer.py --ensemble --runs runs/main --shards shards/isic --out outputs

Writes OUT/submission_MEMBER.csv for each member and, with --ensemble, OUT/submission_ensemble.csv, all in Kaggle's
form (image_name,target), target being a probability. With --split extra the images are those of an outside set, and
the files are named extra_*.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from configs.cli import parse, run_command
from configs.errors import UserError
from configs.schema import InferConfig, MetaKind

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from engine.distributed import Ranks
    from engine.evaluate import Predictions
    from engine.members import Member
    from loaders.shards import ShardSet


def main(argv: Sequence[str]) -> None:
    """Parse, load each member, predict, write."""
    config = parse(InferConfig, argv, prog="python infer.py", description=(__doc__ or "").split("\n")[0])
    from engine.distributed import joined_ranks  # after the parsing: torch is heavy, and --help should not wait
    from engine.members import find_members, load_member
    from evaluation.ensemble import mean_probability

    out, runs = Path(config.out), Path(config.runs)
    kind = {"test": "submission", "extra": "extra"}[config.split]
    with joined_ranks(config.device) as ranks, ExitStack() as resources:
        split: Split | None = None
        predicted = []
        for path in find_members(runs):
            member = load_member(path, runs, ranks.device)
            if ranks.first and not member.finished:
                print(f"warning: {member.path} is the best so far of a member whose training has not ended")
            split = split or Split(config, ranks, resources)
            keys, predictions = split.predict(member)
            predicted.append(predictions.probability)
            if ranks.first:
                write_submission(out / f"{kind}_{member.name}.csv", keys, predicted[-1])
        if config.ensemble and ranks.first:
            write_submission(out / f"{kind}_ensemble.csv", keys, mean_probability(predicted))


class Split:
    """The images to predict, opened once for all members, so that a cache is filled once."""

    def __init__(self, config: InferConfig, ranks: Ranks, resources: ExitStack) -> None:
        from loaders.order import Partition
        from loaders.placement import open_loader

        self._config, self._ranks, self._resources = config, ranks, resources
        self._shards: dict[MetaKind, ShardSet] = {}
        shards = self._opened("clinical")
        self.rows = shards.split_rows(config.split)
        if not len(self.rows):
            remedy = {"test": "an --isic2020 folder that holds test.csv", "extra": "--extra CSV"}[config.split]
            raise UserError(f"{shards.folder} has no {config.split} images: make it with {remedy}")
        local = -(-config.batch_size // ranks.world_size)
        self._partition = Partition(
            samples=len(self.rows), batch_size=local * ranks.world_size, rank=ranks.rank, world_size=ranks.world_size
        )
        loader = resources.enter_context(
            open_loader(
                config.loader, shards, self.rows, ranks.device, threads=ranks.threads, copies=ranks.local_world_size
            )
        )
        self._renderer = loader.renderer(local)
        for remark in loader.remarks if ranks.first else ():
            print(remark)

    def predict(self, member: Member) -> tuple[list[str], Predictions]:
        """The names of the images and the member's probabilities for them, in the order of the shard set."""
        from engine.evaluate import predict
        from engine.members import require_fit
        from engine.step import autocast_of, chosen_dtype
        from loaders.stream import batches, eval_requests

        shards, ranks = self._opened(member.meta), self._ranks
        require_fit(member, shards)
        stream = batches(shards, member.meta, self._renderer, eval_requests(self.rows, self._partition), ranks.device)
        autocast = autocast_of(chosen_dtype(self._config.precision, ranks.device), ranks.device)
        predictions = predict(
            member.model, member.objective, stream, ranks, autocast=autocast, views=self._config.views
        )
        missing = len(self.rows) - len(predictions.index)
        if missing and ranks.first:
            print(f"warning: {missing} damaged {self._config.split} images have no prediction and no row")
        return shards.key.take(predictions.index).to_pylist(), predictions

    def _opened(self, meta: MetaKind) -> ShardSet:
        from loaders.shards import ShardSet

        if meta not in self._shards:
            self._shards[meta] = ShardSet(Path(self._config.shards), meta)
            self._resources.callback(self._shards[meta].close)
        return self._shards[meta]


def write_submission(path: Path, keys: list[str], probability: npt.NDArray[np.float64]) -> None:
    """Write image_name,target, sorted by name; the file appears only when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{key},{value:.9f}" for key, value in sorted(zip(keys, probability, strict=True))]
    temporary = path.with_suffix(".csv.tmp")
    temporary.write_text("\n".join(["image_name,target", *lines]) + "\n")
    temporary.replace(path)
    print(f"{path}: {len(lines):,} images")


if __name__ == "__main__":
    run_command(main)
