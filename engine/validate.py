"""The held-out fold, judged: metrics for the records and out-of-fold predictions for the evaluation."""

import math

import pyarrow as pa
import pyarrow.parquet as pq

from engine.checkpoint import load_checkpoint
from engine.evaluate import Predictions
from engine.session import BEST, OOF, Session
from evaluation.metrics import log_loss, sensitivity, source_aucs, specificity

_THRESHOLD = 0.5  # of the raw probability, as the reference reports


def validate(session: Session) -> tuple[Predictions, dict[str, float]]:
    """Predict the held-out fold and return the predictions and auc, auc_2019, auc_2020, loss, sensitivity, specificity.

    The AUC that decides is the first rank's on every rank.
    """
    predictions = session.predict_fold()
    target = session.shards.target[predictions.index]
    probability = predictions.probability
    aucs = source_aucs(target, probability, session.shards.source[predictions.index])
    metrics = {
        "auc": session.ranks.share_from_first(aucs.pop("merged")),
        **{f"auc_{name}": value for name, value in aucs.items()},
        "loss": log_loss(target, probability),
        "sensitivity": sensitivity(target, probability, _THRESHOLD),
        "specificity": specificity(target, probability, _THRESHOLD),
    }
    return predictions, metrics


def write_oof(session: Session, last: Predictions) -> None:
    """Write oof.parquet: pred_last (after the last epoch, the honest figure) and pred_best (of the chosen one)."""
    if not session.ranks.first:
        return
    best = load_checkpoint(session.folder / BEST, session.ranks.device)
    shards, index = session.shards, last.index
    # A sample found damaged after the best epoch has a prediction there and none in the last; and the reverse.
    chosen = dict(zip(best["validation_index"].tolist(), best["validation"].tolist(), strict=True))
    columns = {
        "key": shards.key.take(pa.array(index)),
        "source": shards.source[index],
        "fold": shards.fold[index],
        "target": shards.target[index],
        "pred_last": last.probability,
        "pred_best": [chosen.get(number, math.nan) for number in index.tolist()],
    }
    temporary = session.folder / f"{OOF}.tmp"
    pq.write_table(pa.table(columns), temporary)
    temporary.replace(session.folder / OOF)
