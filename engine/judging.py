"""The ensemble on its out-of-fold rows: the passes these take, how it is judged, and what is written of it."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow.parquet as pq

from configs.errors import UserError
from configs.files import written_whole
from configs.infer import InferConfig
from engine.inference import Found, Inference, Pass
from engine.members import Member
from engine.picture_statistics import STATISTICS
from engine.records import versions
from engine.tables import read_table, write_table
from evaluation import shipped
from evaluation.discrimination import Floats
from evaluation.familiarity import Familiarity
from evaluation.judgement import Judgement, judge
from evaluation.shipped import Ensemble, ensemble_of, rank_references
from evaluation.table import OutOfFold
from evaluation.text import lines
from loaders.shards import ShardSet
from prep.files import file_sha256
from prep.manifest import SAMPLES
from prep.stage import Encoding

ENSEMBLE, OOF, PREDICTIONS = "ensemble.json", "oof.parquet", "predictions.parquet"
SCHEMA_VERSION = 2
_REBUILT_FROM = ("backbone", "target", "model", "optim")  # of a member's settings; others name folders of this machine


def out_of_fold_passes(shards: ShardSet, members: Sequence[Member]) -> list[Pass]:
    """The held-out rows of each fold that has members, for those members."""
    folds = sorted({member.fold for member in members if member.fold is not None})
    return [
        Pass(rows=shards.fold_rows(fold), members=[member for member in members if member.fold == fold])
        for fold in folds
    ]


def judged(config: InferConfig, shards: ShardSet, members: Sequence[Member], inference: Inference) -> Floats:
    """Combine the members' scores of the first pass, float64 [N]; judge and calibrate them on the other passes.

    Prints the judgement, and writes predictions.parquet, and oof.parquet and ensemble.json if there are out-of-fold
    rows. Raises UserError for --combine rank or weighted without them.
    """
    test, held_out = inference.found[0], inference.found[1:]
    named = [shipped.Member(name=member.name, model=member.model, fold=member.fold) for member in members]
    out = Path(config.out)
    if not held_out:
        if config.combine != "mean":
            raise UserError(f"--combine {config.combine} needs members with a held-out fold: give --combine mean")
        print("no member has out-of-fold rows: the ensemble is not judged and not calibrated")
        table = prediction_table(config, ensemble_of(named), {}, test, None)
    else:
        oof = out_of_fold(shards, members, held_out)
        judgement = judge(oof, combine=config.combine, per_source=config.calibrate == "source")
        print("\n".join(lines(judgement)))
        if any(entry["chosen"] for entry in inference.loaded.values()):
            print(
                "warning: some weights were chosen on the fold that judges them here, so these figures are optimistic"
            )
        ensemble, familiarity = judgement.ensemble(named), _familiarity(oof, held_out)
        source = shards.source[test.index]
        table = prediction_table(config, ensemble, rank_references(oof, named), test, familiarity, source)
        write_table(oof_table(judgement), out / OOF)
        record = ensemble_record(config, shards, members, inference, judgement, ensemble, familiarity)
        write_record(record, out)
    keys = {"key": shards.key.take(test.index).to_pylist(), "source": shards.source[test.index]}
    write_table(pd.DataFrame({**keys, **table}), out / PREDICTIONS)
    return np.asarray(table["raw"])


def out_of_fold(shards: ShardSet, members: Sequence[Member], found: Sequence[Found]) -> OutOfFold:
    """The out-of-fold table: one row per training sample that some member was trained without."""
    index = np.concatenate([part.index for part in found])
    models = list(dict.fromkeys(member.model for member in members if member.fold is not None))
    model_of = {member.name: models.index(member.model) for member in members if member.fold is not None}
    views = next(iter(found[0].probability.values())).shape[0]
    scores = np.full((len(models), views, len(index)), np.nan)
    start = 0
    for part in found:
        for name, probability in part.probability.items():
            scores[model_of[name], :, start : start + len(part.index)] = probability
        start += len(part.index)
    group = pq.read_table(shards.folder / SAMPLES, columns=["group"])["group"]
    return OutOfFold(
        key=shards.key.take(index).to_pylist(),
        fold=shards.fold[index],
        source=shards.source[index],
        target=shards.target[index],
        group=group.take(index).to_pylist(),
        models=tuple(models),
        scores=scores.mean(axis=1),
        views=np.nanmean(scores, axis=0),
    )


def prediction_table(
    config: InferConfig,
    ensemble: Ensemble,
    references: dict[str, Floats],
    found: Found,
    familiarity: Familiarity | None,
    source: npt.ArrayLike | None = None,
) -> dict[str, Any]:
    """Columns [N] of predictions; `source` [N] chooses the calibrator, if there is one for each source.

    raw: the combined score; calibrated: its probability, at --prevalence if given, NaN without out-of-fold rows; rank:
    the mean over the models of the rank among out-of-fold scores, NaN likewise; spread_members, spread_views: standard
    deviations of the members' scores and of the views' combined scores; flips: whether the decision at the point of
    90 % sensitivity depends on the view; unusual: whether the picture is unlike the training pictures; then each
    member's score.
    """
    members = {member.name: found.probability[member.name] for member in ensemble.members}
    scores = np.stack(list(members.values()))  # [K, V, N]
    by_view = np.stack([ensemble.raw(scores[:, view], references) for view in range(scores.shape[1])])
    raw = ensemble.raw(scores.mean(axis=1), references)
    nothing = np.full(len(raw), np.nan)
    points = {point.wanted: point.threshold for point in ensemble.operating_points}
    suspicious = by_view >= points.get(0.90, np.inf)
    equal = (1 / len(ensemble.models),) * len(ensemble.models)
    by_rank = replace(ensemble, combine="rank", weights=equal)
    return {
        "raw": raw,
        "calibrated": ensemble.calibrated(raw, source, config.prevalence or None) if references else nothing,
        "rank": by_rank.raw(scores.mean(axis=1), references) if references else nothing,
        "spread_members": scores.mean(axis=1).std(axis=0),
        "spread_views": by_view.std(axis=0),
        "flips": suspicious.any(axis=0) & ~suspicious.all(axis=0),
        "unusual": np.zeros(len(raw), dtype=bool) if familiarity is None else familiarity.unusual(found.statistics),
        **{name: probability.mean(axis=0) for name, probability in members.items()},
    }


def oof_table(judgement: Judgement) -> pd.DataFrame:
    """One row for each out-of-fold sample: what it is, each model's score, and the ensemble's, cross-fitted."""
    oof = judgement.oof
    facts = {"key": oof.key, "source": oof.source, "fold": oof.fold, "target": oof.target.astype(np.int8)}
    models = dict(zip(oof.models, oof.scores, strict=True))
    calibrated = np.full(len(oof.key), np.nan) if judgement.calibrated is None else judgement.calibrated
    ours = {"raw": judgement.raw, "calibrated": calibrated, "rank": judgement.rank}
    return pd.DataFrame({**facts, "group": oof.group, **ours, **models})


def read_oof(path: Path, models: Sequence[str]) -> tuple[pd.DataFrame, OutOfFold]:
    """oof.parquet, with or without the samples' names, and the out-of-fold table in it."""
    table = read_table(path)
    number = pd.Series(np.arange(len(table)))
    columns = {name: table.get(name, number).to_numpy() for name in ("key", "fold", "source", "target", "group")}
    return table, OutOfFold(
        **columns,
        models=tuple(model for model in models if model in table),
        scores=np.stack([table[model] for model in models if model in table]),
    )


def ensemble_record(
    config: InferConfig,
    shards: ShardSet,
    members: Sequence[Member],
    inference: Inference,
    judgement: Judgement,
    ensemble: Ensemble,
    familiarity: Familiarity | None,
) -> dict[str, Any]:
    """ensemble.json: everything that predicts new images, and how well it does."""
    manifest = shards.manifest
    entries = [
        {
            "name": member.name,
            "model": member.model,
            "fold": member.fold,
            "config": {name: member.config[name] for name in _REBUILT_FROM},
            "facts": member.facts,
            **inference.loaded[member.name],
        }
        for member in members
    ]
    return {
        "schema_version": SCHEMA_VERSION,
        "ensemble": ensemble.to_dict(),
        "members": entries,
        "views": config.views,
        "checkpoint": config.checkpoint,
        "encoding": asdict(Encoding.from_described(manifest.encoder)),
        "labels_sha256": manifest.labels_sha256,
        "counts": manifest.counts,
        "unsafe": manifest.unsafe,
        "familiarity": None if familiarity is None else familiarity.to_dict(),
        "judgement": judgement.to_dict(),
        "versions": versions(),
    }


def write_record(record: dict[str, Any], folder: Path) -> None:
    """Write ensemble.json to `folder`, with the SHA-256 of oof.parquet there, and that of its own content."""
    record = json.loads(json.dumps({**record, "oof_sha256": file_sha256(folder / OOF)}))  # as it is read
    record["sha256"] = record_sha256(record)
    with written_whole(folder / ENSEMBLE) as file:
        file.write((json.dumps(record, indent=1) + "\n").encode())


def record_sha256(record: dict[str, Any]) -> str:
    """SHA-256 of a record's content, except for the field that holds it."""
    content = {name: value for name, value in record.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _familiarity(oof: OutOfFold, found: Sequence[Found]) -> Familiarity | None:
    """Fitted to the pictures of the out-of-fold rows; None with fewer than two folds, or with very few pictures."""
    statistics = np.concatenate([part.statistics for part in found])
    folds, counts = np.unique(oof.fold, return_counts=True)
    if len(folds) < 2 or len(oof.fold) - counts.max() < 10 * len(STATISTICS):
        return None
    return Familiarity.fit(statistics, oof.fold, STATISTICS)
