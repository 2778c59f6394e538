"""The merged master table, from the downloads to a CSV file."""

import os
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from configs.prep import MergeConfig, PrepConfig
from prep.build import stage_images
from prep.duplicates import list_pairs
from prep.files import written_whole
from prep.fingerprint import Pairs
from prep.folds import fold_table
from prep.plan import audit, decided, find_duplicates, official_pairs, read_rows
from prep.pool import Workers

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
    if config.look:
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=".look-") as folder, Workers(prep.workers) as workers:
            rows = stage_images(rows, prep, Path(folder), workers)
            pairs = find_duplicates(rows, official_pairs(prep), Path(folder))
    else:
        nothing = np.empty((0, 2), dtype=np.int64)
        alike = Pairs(nothing, np.empty(0, np.float32), np.empty(0, np.float32))
        pairs = list_pairs(rows, official_pairs(prep), nothing, alike)
    order = pd.Series(np.arange(len(rows)), index=rows["key"])
    rows = decided(rows, pairs, prep)
    audit(rows, prep)
    rows = rows.sort_values("key", key=lambda keys: keys.map(order), ignore_index=True)
    train = rows[rows["split"] == "train"]
    master = train[list(_COLUMNS)].rename(columns=_COLUMNS)
    with written_whole(out) as file:
        file.write(master.to_csv(index=False).encode())
    looked = "with" if config.look else "without"
    return "\n".join(
        [
            f"{out}: {len(train):,} images, {(train['target'] == 1).sum():,} melanoma; "
            f"folds made {looked} a look at the pictures; training images (melanoma) by fold and sub-source",
            fold_table(train.assign(left_out=None)),
        ]
    )
