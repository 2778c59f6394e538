"""Cases without training: a shard set, and scores that are made up of targets and noise."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from scipy.special import expit

from configs.report import ReportConfig
from evaluation.judgement import judge
from evaluation.table import OutOfFold
from loaders.shards import ShardSet
from prep.manifest import SAMPLES
from report.case import COLUMNS, Case


def made_up(shards: Path, *, rows: pd.DataFrame | None = None, models: int = 2, **config: Any) -> Case:
    """A case on all training rows of the set, without members; `rows` instead of the set's own."""
    opened = ShardSet(shards)
    if rows is None:
        rows = pq.read_table(shards / SAMPLES, columns=COLUMNS).to_pandas()
    index = np.flatnonzero(opened.fold >= 0)
    judged, rng = rows.iloc[index], np.random.default_rng(0)
    oof = OutOfFold(
        **{name: judged[name].to_numpy() for name in ("key", "fold", "source", "target", "group")},
        models=tuple(f"model{number}" for number in range(models)),
        scores=expit(2.0 * judged["target"].to_numpy() - 2 + rng.normal(size=(models, len(index)))),
    )
    settings = {"draws": 100, "pictures": 0, **config}
    return Case(
        config=ReportConfig(shards=str(shards), **settings),
        shards=opened,
        rows=rows,
        index=index,
        judgement=judge(oof, draws=100),
        members=[],
        record=None,
        predictions=None,
    )
