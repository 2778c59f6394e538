"""What a report is about: a shard set, its trained members, and their out-of-fold predictions, judged."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow.parquet as pq

from configs.errors import UserError
from configs.files import is_there
from configs.report import ReportConfig
from configs.schema import Combine
from engine.judging import ENSEMBLE, OOF, PREDICTIONS
from engine.members import Member, find_members, require_fit
from engine.predictor import read_record
from engine.tables import read_table
from engine.validate import OOF as MEMBER_OOF
from evaluation.discrimination import Floats
from evaluation.judgement import Judgement, judge
from evaluation.table import OutOfFold
from loaders.shards import ShardSet
from prep.manifest import SAMPLES

COLUMNS = ["key", "source", "subsource", "split", "fold", "target", "diagnosis", "group", "patient", "lesion"]
COLUMNS += ["sex", "age", "site", "n_images", "file_bytes", "width", "height", "duplicate_decision", "left_out"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """What every section of the report reads."""

    config: ReportConfig
    shards: ShardSet
    """The shard set, opened."""
    rows: pd.DataFrame
    """COLUMNS of samples.parquet, all rows of the tables; the first len(shards) are those kept, numbered as in it."""
    index: npt.NDArray[np.int64]
    """Row numbers [N] of the out-of-fold samples."""
    judgement: Judgement
    """Their verdict; judgement.oof has their columns [N], in the order of `index`."""
    members: Sequence[Member]
    """The trained members."""
    record: dict[str, Any] | None
    """ensemble.json, if infer.py --ensemble has been run."""
    predictions: pd.DataFrame | None
    """predictions.parquet of the test images, likewise."""

    @property
    def judged(self) -> pd.DataFrame:
        """The rows [N] of the out-of-fold samples, numbered from 0."""
        return self.rows.iloc[self.index].reset_index(drop=True)

    @property
    def probability(self) -> Floats:
        """The calibrated probability [N], cross-fitted; the combined score where it could not be calibrated."""
        found = self.judgement.calibrated
        return self.judgement.raw if found is None else found


def open_case(config: ReportConfig, shards: ShardSet) -> Case:
    """Read and judge. Raises UserError where members and shard set do not fit, or no prediction is out of fold."""
    members = find_members(Path(config.runs))
    for member in members:
        require_fit(member, shards)
    rows = pq.read_table(shards.folder / SAMPLES, columns=COLUMNS).to_pandas()
    folder = _predictions_folder(config, shards, members)
    record = None if folder is None else read_record(folder)
    table = read_table(folder / OOF) if folder is not None else _members_own(members)
    index = pd.Index(rows["key"].iloc[: len(shards)]).get_indexer(table["key"])
    if (index < 0).any():
        raise UserError(f"{shards.folder} has no sample {table['key'][index < 0].iloc[0]}, which was predicted")
    models = [model for model in dict.fromkeys(member.model for member in members) if model in table]
    judged = rows.iloc[index]
    oof = OutOfFold(
        **{name: judged[name].to_numpy() for name in ("key", "fold", "source", "target", "group")},
        models=tuple(models),
        scores=np.stack([table[model].to_numpy(dtype=np.float64) for model in models]),
    )
    combine: Combine = "mean" if record is None else record["judgement"]["combine"]
    per_source = record is not None and len(record["judgement"]["calibrators"]) > 1
    return Case(
        config=config,
        shards=shards,
        rows=rows,
        index=index,
        judgement=judge(oof, combine=combine, per_source=per_source, draws=config.draws, seed=config.seed),
        members=members,
        record=record,
        predictions=None if folder is None else read_table(folder / PREDICTIONS),
    )


def _predictions_folder(config: ReportConfig, shards: ShardSet, members: Sequence[Member]) -> Path | None:
    """The folder of infer.py --ensemble for these members, if there is one. Raises UserError for one of others."""
    named = config.predictions
    candidates = [Path(named)] if named else [Path(config.runs) / "outputs", Path("outputs")]
    for folder in candidates:
        if (folder / ENSEMBLE).is_file() and (folder / OOF).is_file():
            record = read_record(folder)
            same = {entry["name"] for entry in record["members"]} == {member.name for member in members}
            if same and record["labels_sha256"] == shards.manifest.labels_sha256:
                return folder
    if named:
        raise UserError(
            f"--predictions {named}: no {ENSEMBLE} and {OOF} of the members below {config.runs}: run "
            f"infer.py --ensemble --runs {config.runs} --shards {config.shards} --out {named}"
        )
    return None


def _members_own(members: Sequence[Member]) -> pd.DataFrame:
    """Key and each model's probability after the last epoch, from the members' oof.parquet; a row a sample."""
    parts: dict[str, list[pd.Series]] = {}
    for member in members:
        path = member.folder / MEMBER_OOF
        if member.fold is not None and is_there(path):
            table = read_table(path)[["key", "pred_last"]]
            parts.setdefault(member.model, []).append(table.set_index("key")["pred_last"].astype("float64"))
    if not parts:
        raise UserError("no member has out-of-fold predictions: train with --fold 0, or all, and let it finish")
    columns = {model: pd.concat(each) for model, each in parts.items()}
    return pd.DataFrame(columns).rename_axis("key").reset_index()
