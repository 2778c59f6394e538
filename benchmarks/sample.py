"""The literal commands on a folder that holds a part of the real ISIC images, and what came out of them.

    python -m benchmarks.sample --isic ../shared/data/isic-sample --epochs 12

Fold 0 is trained by two ranks, fold 1 by one process. The AUCs compare systems with each other; measured on a small,
biased part of the images with a tiny network, they say nothing of clinical use.
"""

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.environment import environment, write_record
from configs.cli import parse, run_command
from configs.errors import UserError


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """What `python -m benchmarks.sample` is asked for."""

    isic: str = "../shared/data/isic-sample"
    """Folder that holds 2019/ and 2020/, laid out as the downloads are."""
    shards: str = "shards/sample"
    """Folder of the shard set."""
    runs: str = "runs/sample"
    """Folder of the run."""
    epochs: int = 12
    """Epochs of each member."""
    out: str = "benchmarks/results/sample.json"
    """Where the record is written."""


def commands(config: SampleConfig) -> list[str]:
    """The command lines, in their order."""
    train = f"train.py --shards {config.shards} --backbone tiny --epochs {config.epochs} --out {config.runs}"
    sources = f"--isic2020 {config.isic}/2020 --isic2019 {config.isic}/2019"
    return [
        f"prep/shard.py {sources} --missing skip --out {config.shards}",
        f"-m torch.distributed.run --standalone --nproc-per-node 2 {train} --fold 0",
        f"{train} --fold 1",
        f"infer.py --ensemble --runs {config.runs} --shards {config.shards} --out {config.runs}/submissions",
    ]


def main(argv: Sequence[str]) -> None:
    """Run the commands and record counts, AUCs and times."""
    config = parse(SampleConfig, argv, prog="python -m benchmarks.sample", description=(__doc__ or "").split("\n")[0])
    seconds = []
    for line in commands(config):
        print(f"$ python {line}", flush=True)
        start = time.perf_counter()
        if subprocess.run([sys.executable, *shlex.split(line)], check=False).returncode:
            raise UserError(f"python {line} failed: see above")
        seconds.append(round(time.perf_counter() - start, 1))
    rows = pd.read_parquet(Path(config.shards) / "samples.parquet")
    kept = rows[rows["left_out"].isna()]
    train, test = kept[kept["split"] == "train"], kept[kept["split"] == "test"]
    submission = pd.read_csv(Path(config.runs) / "submissions" / "submission_ensemble.csv")
    record = {
        "what": "tiny backbone from random weights on the real sample, 256 px: held-out fold AUC after the last epoch",
        **environment(),
        "epochs": config.epochs,
        "train_rows": len(train),
        "train_melanomas": int((train["target"] == 1).sum()),
        "test_rows": len(test),
        "submission_rows": len(submission),
        "command_seconds": seconds,
        "folds": {str(fold): _fold(Path(config.runs) / "tiny" / f"fold{fold}") for fold in (0, 1)},
    }
    write_record(Path(config.out), record)


def _fold(folder: Path) -> dict[str, Any]:
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    oof = pd.read_parquet(folder / "oof.parquet")
    names = {"merged": "auc", "2020": "auc_2020", "2019": "auc_2019"}
    figures = {name: round(last[field], 4) for name, field in names.items()}
    return {"samples": len(oof), "melanomas": int(oof["target"].sum()), "auc_last_epoch": figures}


if __name__ == "__main__":
    run_command(main)
