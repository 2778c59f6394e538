"""Predict images with every trained member, and with the calibrated ensemble of them.

    python infer.py --ensemble --runs runs/main --shards shards/isic --out outputs
    python infer.py --image lesion.jpg --age 45 --sex male --site torso
    python infer.py --images DIR --meta lesions.csv
    python infer.py --export bundle
    python infer.py --bundle bundle --image lesion.jpg

The first writes OUT/submission_MEMBER.csv for each member in Kaggle's format (image_name,target), and with --ensemble
submission_ensemble.csv, predictions.parquet, oof.parquet and ensemble.json, which judges and calibrates the ensemble on
its out-of-fold rows. The others use that ensemble.json. With --split extra the images are those of an outside set, and
the submissions are named extra_*. A research tool, not a medical device.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from configs.cli import parse, run_command, with_list
from configs.errors import UserError
from configs.infer import InferConfig

if TYPE_CHECKING:
    from loaders.order import Indices
    from loaders.shards import ShardSet


def main(argv: Sequence[str]) -> None:
    """Parse, then predict a shard set, image files, or export."""
    words = with_list(argv, "--image")
    config = parse(InferConfig, words, prog="python infer.py", description=(__doc__ or "").split("\n")[0])
    # Imported after parsing: torch is slow to import, and --help should not wait for it.
    if config.export is not None:
        from engine.bundle import export_bundle

        export_bundle(config)
    elif config.image or config.images is not None:
        from engine.lesions import predict_files

        predict_files(config)
    else:
        predict_split(config)


def predict_split(config: InferConfig) -> None:
    """Predict a split of the shard set by every member; combine, judge and calibrate them with --ensemble."""
    from engine.data import open_shards
    from engine.distributed import joined_ranks
    from engine.inference import Pass, predict_shards
    from engine.judging import judged, out_of_fold_passes
    from engine.members import find_members, require_fit
    from engine.submission import expected_rows, write_submission

    members = find_members(Path(config.runs))
    with (
        joined_ranks(config.device, timeout=config.timeout) as ranks,
        open_shards(Path(config.shards), ranks) as shards,
    ):
        rows = split_rows(shards, config)
        for member in members:
            require_fit(member, shards)
        passes = [Pass(rows=rows, members=members)]
        if config.ensemble:
            passes += out_of_fold_passes(shards, members)
        inference = predict_shards(config, shards, passes, ranks)
        if not ranks.first:
            return
        for remark in inference.remarks:
            print(remark)
        sample = None if config.sample_submission is None else Path(config.sample_submission)
        form = expected_rows(shards, config.split, sample, prior(shards) if config.fill == "prior" else None)
        kind = {"test": "submission", "extra": "extra"}[config.split]
        found, out = inference.found[0], Path(config.out)
        keys = shards.key.take(found.index).to_pylist()
        for name, probability in found.probability.items():
            print(write_submission(out / f"{kind}_{name}.csv", form, keys, probability.mean(0)))
        if config.ensemble:
            raw = judged(config, shards, members, inference)
            print(write_submission(out / f"{kind}_ensemble.csv", form, keys, raw))
        if (shortage := form.shortage(keys)) is not None:
            print(f"warning: {out / kind}_*.csv: {shortage}", file=sys.stderr)


def split_rows(shards: ShardSet, config: InferConfig) -> Indices:
    """The samples to predict. Raises UserError if there are none."""
    rows = shards.split_rows(config.split)
    if not len(rows):
        remedy = {"test": "an --isic2020 folder that holds test.csv", "extra": "--extra CSV"}[config.split]
        raise UserError(f"{shards.folder} has no {config.split} images: build it with {remedy}")
    return rows


def prior(shards: ShardSet) -> float:
    """Share of melanomas among the training rows."""
    return float((shards.target[shards.fold >= 0] == 1).mean())


if __name__ == "__main__":
    run_command(main)
