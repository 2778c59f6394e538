"""Evaluation of the held-out fold: metrics for the records, and the out-of-fold predictions."""

import math
from pathlib import Path

import pandas as pd
import pyarrow as pa

from engine.checkpoint import BEST, LAST, lost_best, read_checkpoint
from engine.evaluate import Predictions
from engine.tables import write_table
from evaluation.discrimination import auc, log_loss, sensitivity, source_aucs, specificity
from loaders.shards import ShardSet
from prep.diagnosis import CLASSES

OOF = "oof.parquet"
_THRESHOLD = 0.5  # of the raw probability, as the reference reports


def validation_figures(predictions: Predictions, shards: ShardSet) -> dict[str, float]:
    """auc, auc_2019, auc_2020, loss, sensitivity, specificity; and auc_CLASS of each diagnosis if predicted."""
    target, probability = shards.target[predictions.index], predictions.probability
    aucs = source_aucs(target, probability, shards.source[predictions.index])
    figures = {
        "auc": aucs.pop("merged"),
        **{f"auc_{name}": value for name, value in aucs.items()},
        "loss": log_loss(target, probability),
        "sensitivity": sensitivity(target, probability, _THRESHOLD),
        "specificity": specificity(target, probability, _THRESHOLD),
    }
    diagnosis = shards.diagnosis[predictions.index]
    for number, scores in enumerate(predictions.classes.T):
        figures[f"auc_{CLASSES[number]}"] = auc(diagnosis == number, scores)
    return figures


def write_oof(folder: Path, shards: ShardSet) -> str | None:
    """Write oof.parquet of the member in `folder` from its last.pt and best.pt; says why pred_best is empty, if it is.

    pred_last is the prediction after the last epoch, the one to report; pred_best that of the epoch selected on this
    same fold, and so optimistic. If patience ended the run, the last epoch was selected on the fold too; with
    --patience 0 the number of epochs is fixed.
    """
    last = read_checkpoint(folder / LAST)
    index = last["validation_index"].numpy()
    lost = lost_best(last, folder)
    best = {"validation_index": index[:0], "validation": index[:0]} if lost else read_checkpoint(folder / BEST)
    # A sample found corrupt after the best epoch has a prediction there and none in the last epoch, and vice versa.
    chosen = dict(zip(best["validation_index"].tolist(), best["validation"].tolist(), strict=True))
    table = pd.DataFrame(
        {
            "key": shards.key.take(pa.array(index)).to_pandas(),
            "source": shards.source[index],
            "fold": shards.fold[index],
            "target": shards.target[index],
            "pred_last": last["validation"].numpy(),
            "pred_best": [chosen.get(number, math.nan) for number in index.tolist()],
        }
    )
    write_table(table, folder / OOF)
    return lost
