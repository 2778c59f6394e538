"""The merged master table, from the downloads to a CSV file."""

import os
import tempfile
from pathlib import Path

import pandas as pd

from configs.prep import MergeConfig, PrepConfig
from prep.duplicates import find_duplicates
from prep.files import written_whole
from prep.first_pass import stage_images
from prep.folds import fold_table
from prep.plan import Plan, make_plan
from prep.pool import Workers
from prep.rows import official_pairs, read_rows
from prep.stage import Encoding

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
    plan = _plan_after_a_look(rows, prep, out.parent) if config.look else _plan(rows, prep, None)
    table = plan.rows.set_index("key").loc[rows["key"]].reset_index()
    train = table[table["split"] == "train"]
    with written_whole(out) as file:
        file.write(train[list(_COLUMNS)].rename(columns=_COLUMNS).to_csv(index=False).encode())
    when = "after" if config.look else "without"
    return (
        f"{out}: {len(train):,} images, {(train['target'] == 1).sum():,} melanoma; "
        f"folds made {when} reading the images; training images (melanoma) by fold and sub-source\n"
        + fold_table(train.assign(left_out=None))
    )


def _plan(rows: pd.DataFrame, prep: PrepConfig, stage: Path | None) -> Plan:
    return make_plan(rows, find_duplicates(rows, official_pairs(prep), stage), prep)


def _plan_after_a_look(rows: pd.DataFrame, prep: PrepConfig, beside: Path) -> Plan:
    """The plan after every picture was read, into a folder that is removed afterwards."""
    with tempfile.TemporaryDirectory(dir=beside, prefix=".look-") as folder, Workers(prep.workers) as workers:
        stage = Path(folder)
        return _plan(stage_images(rows, Encoding.of(prep), stage, workers), prep, stage)
