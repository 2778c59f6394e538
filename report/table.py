"""The table at the end of a grid: each member's fold, and the folds of each backbone together."""

from collections.abc import Mapping
from pathlib import Path
from statistics import mean, stdev

import pandas as pd
from rich.table import Table

from configs.console import plain_console
from configs.schema import TrainConfig
from engine.records import epoch_lines, member_folder
from engine.tables import read_table
from engine.validate import OOF
from evaluation.discrimination import source_aucs

_COLUMNS = {"AUC": "auc", "2020 only": "auc_2020", "2019 only": "auc_2019"}


def print_table(configs: list[TrainConfig], states: Mapping[str, str] | None = None) -> None:
    """Print the AUC of each held-out fold after its last epoch, and the mean, sd and pooled AUC by backbone.

    The row of a member without a held-out fold (none) has no AUC. states: what became of each member (BACKBONE/foldK),
    a last column; the AUCs are those of the "finished" ones.
    """
    table = Table(title="held-out folds, after the last epoch (which patience may have chosen)", title_justify="left")
    for heading in ("backbone", "fold", "epochs", *_COLUMNS):
        table.add_column(heading, justify="left" if heading == "backbone" else "right")
    if states is not None:
        table.add_column("state", overflow="fold")
    for backbone in dict.fromkeys(config.backbone for config in configs):
        folders = {config.fold_word: member_folder(config) for config in configs if config.backbone == backbone}
        # Nothing of a member whose metrics.jsonl is lost.
        lines = {fold: (epoch_lines(folder) or [{}])[-1] for fold, folder in folders.items()}
        state = {fold: (states or {}).get(f"{backbone}/fold{fold}", "finished") for fold in folders}
        for fold, line in lines.items():
            finished = state[fold] == "finished"
            aucs = [_formatted(line.get(name) if finished else None) for name in _COLUMNS.values()]
            cells = [state[fold]] if states is not None else []
            table.add_row(backbone, fold, str(line["epoch"] + 1) if line else "-", *aucs, *cells)
        judged = {fold: line for fold, line in lines.items() if fold != "none" and state[fold] == "finished"}
        if len(judged) > 1:
            of_folds = [[line.get(name) for line in judged.values()] for name in _COLUMNS.values()]
            values = [[value for value in column if value is not None] for column in of_folds]
            for name, of, least in (("mean", mean, 1), ("sd", stdev, 2)):
                cells = [_formatted(of(known) if len(known) >= least else None) for known in values]
                table.add_row(backbone, name, "", *cells)
            table.add_row(backbone, "pooled", "", *_pooled([folders[fold] for fold in judged]), end_section=True)
    plain_console().print(table)


def _pooled(folders: list[Path]) -> list[str]:
    rows = pd.concat([read_table(folder / OOF) for folder in folders])
    aucs = source_aucs(rows["target"], rows["pred_last"], rows["source"])
    return [_formatted(aucs[name]) for name in ("merged", "2020", "2019")]


def _formatted(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
