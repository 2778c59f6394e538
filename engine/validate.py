"""The held-out fold, judged: metrics for the records and out-of-fold predictions for the evaluation."""

import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from configs.errors import UserError
from engine.checkpoint import load_checkpoint
from engine.curves import member_curves
from engine.evaluate import Predictions, predict
from engine.interrupt import StopRequest
from engine.resume import BEST, CURVES, LAST, OOF
from engine.session import Session
from evaluation.metrics import auc, log_loss, sensitivity, source_aucs, specificity
from prep.diagnosis import CLASSES

_THRESHOLD = 0.5  # of the raw probability, as the reference reports


def validate(session: Session, stop: StopRequest) -> tuple[Predictions, dict[str, float]]:
    """Predict the held-out fold, one view, and judge it: auc, auc_2019, auc_2020, loss, sensitivity, specificity, and
    auc_CLASS of each diagnosis where the network tells them apart. Raises Stopped."""
    session.ranks.share_buffers(session.model)
    if session.judged_model is not session.model:
        session.ranks.share_buffers(session.judged_model)
    batches = stop.over(session.fold_batches())
    predictions = predict(session.judged_model, session.objective, batches, session.ranks, autocast=session.autocast)
    target, probability = session.shards.target[predictions.index], predictions.probability
    if not np.isfinite(probability).all():
        session.require_finite()  # says so where the weights are the reason
        raise UserError(
            f"{np.isnan(probability).sum()} of {len(probability)} predictions of epoch {session.epoch + 1} are no "
            f"numbers; {session.folder} is left as it was saved last: start anew with a lower --optim.lr (now "
            f"{session.config.optim.lr}), or with --precision fp32"
        )
    aucs = source_aucs(target, probability, session.shards.source[predictions.index])
    metrics = {
        "auc": aucs.pop("merged"),
        **{f"auc_{name}": value for name, value in aucs.items()},
        "loss": log_loss(target, probability),
        "sensitivity": sensitivity(target, probability, _THRESHOLD),
        "specificity": specificity(target, probability, _THRESHOLD),
    }
    diagnosis = session.shards.diagnosis[predictions.index]
    for number, scores in enumerate(predictions.classes.T):
        metrics[f"auc_{CLASSES[number]}"] = auc(diagnosis == number, scores)
    return predictions, metrics


def take_note(session: Session, metrics: dict[str, float]) -> bool:
    """Make this epoch the best one where it is; returns whether the run is over.

    The first rank's figure decides on every rank, so that all of them stop after the same epoch.
    """
    config = session.config
    score = session.ranks.share_from_first(metrics[config.monitor])
    sign = -1 if config.monitor == "loss" else 1
    if session.best["epoch"] < 0 or sign * score > sign * session.best["score"]:
        session.best = {"epoch": session.epoch, "score": score}
    stale = session.epoch - session.best["epoch"]
    return session.epoch + 1 == config.epochs or 0 < config.patience <= stale


def write_results(session: Session) -> None:
    """Write what follows from last.pt and best.pt where it is missing: oof.parquet and training_curves.png.

    oof.parquet has pred_last (after the last epoch, the headline figure) and pred_best (of the epoch that this very
    fold chose, which is optimistic). Where patience ended the run, the fold chose the last epoch too: with --patience 0
    the number of epochs is fixed.
    """
    if not session.ranks.first:
        return
    out = session.folder / OOF
    if not out.is_file():
        temporary = out.with_suffix(".tmp")
        pq.write_table(_oof(session), temporary)
        temporary.replace(out)
    if not (session.folder / CURVES).is_file():
        member_curves(session.folder, session.folder / CURVES)


def _oof(session: Session) -> pa.Table:
    last, best = (load_checkpoint(session.folder / name, torch.device("cpu")) for name in (LAST, BEST))
    shards, index = session.shards, last["validation_index"].numpy()
    # A sample found damaged after the best epoch has a prediction there and none in the last; and the reverse.
    chosen = dict(zip(best["validation_index"].tolist(), best["validation"].tolist(), strict=True))
    return pa.table(
        {
            "key": shards.key.take(pa.array(index)),
            "source": shards.source[index],
            "fold": shards.fold[index],
            "target": shards.target[index],
            "pred_last": last["validation"].numpy(),
            "pred_best": [chosen.get(number, math.nan) for number in index.tolist()],
        }
    )
