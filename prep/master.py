"""The merged master table, from the downloads to a CSV file."""

import os
import shutil
from pathlib import Path

from configs.files import written_whole
from configs.prep import MergeConfig, PrepConfig
from prep.build import stage_images
from prep.duplicates import find_duplicates
from prep.files import only_builder
from prep.folds import fold_table
from prep.plan import make_plan
from prep.pool import Workers
from prep.rows import read_rows
from prep.tables import read_duplicate_pairs

_COLUMNS = {"key": "image_name", "target": "target", "source": "year", "path": "filepath"}
_COLUMNS |= {name: name for name in ("patient", "lesion", "sex", "age", "site", "diagnosis", "group", "fold")}


def write_master(config: MergeConfig) -> str:
    """Write the merged master CSV that `config` asks for; a summary to print. Raises UserError."""
    out = Path(config.out)
    shared = {name: getattr(config, name) for name in ("isic2020", "isic2019", "folds", "seed", "workers")}
    prep = PrepConfig(**shared, duplicates="group", missing="skip", on_bad="skip")
    rows = read_rows(prep, images=config.look)
    rows["path"] = rows["path"].map(os.path.abspath, na_action="ignore")
    out.parent.mkdir(parents=True, exist_ok=True)
    official = read_duplicate_pairs(prep.isic2020)
    if config.look:
        stage = out.with_name(out.name + ".partial")  # what an interrupted run left there is used, then removed
        with (
            only_builder(stage, ["*.jpgs", "*.thumbs", "*.npz", "*.now", "*.killers", "*.tmp"]),
            Workers(prep.workers) as workers,
        ):
            rows = stage_images(rows, prep, stage, workers)
            pairs = find_duplicates(rows, official, stage)
            shutil.rmtree(stage)
    else:
        pairs = find_duplicates(rows, official, None)
    plan = make_plan(rows, pairs, prep)
    table = plan.rows.set_index("key").loc[rows["key"]].reset_index()
    train = table[table["split"] == "train"]
    with written_whole(out, private=True) as file:  # it has the ids of patients
        file.write(train[list(_COLUMNS)].rename(columns=_COLUMNS).to_csv(index=False).encode())
    when = "after" if config.look else "without"
    return (
        f"{out}: {len(train):,} images, {(train['target'] == 1).sum():,} melanoma; "
        f"folds made {when} reading the images; training images (melanoma) by fold and sub-source\n"
        + fold_table(train.assign(left_out=None))
    )
