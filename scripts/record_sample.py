"""The literal commands on a folder with a part of the real ISIC images, and what came out of them, as a record.

    python -m scripts.record_sample ../shared/data/isic-sample

Fold 0 is trained by two ranks, fold 1 by one process. The AUCs compare systems with each other; measured on a small,
biased part of the images with a tiny network, they say nothing of clinical use.
"""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pandas as pd

from benchmarks.record import RESULTS, write

SHARDS, RUNS, EPOCHS = "shards/sample", "runs/sample", 10


def main(isic: str) -> None:
    """Run the commands, then record counts and the AUCs of the last epoch."""
    train = f"train.py --shards {SHARDS} --backbone tiny --epochs {EPOCHS} --out {RUNS}"
    for line in (
        f"prep/shard.py --isic2020 {isic}/2020 --isic2019 {isic}/2019 --missing skip --out {SHARDS}",
        f"-m torch.distributed.run --standalone --nproc-per-node 2 {train} --fold 0",
        f"{train} --fold 1",
        f"infer.py --ensemble --runs {RUNS} --shards {SHARDS} --out {RUNS}/submissions",
    ):
        print(f"$ python {line}", flush=True)
        subprocess.run([sys.executable, *shlex.split(line)], check=True)
    rows = pd.read_parquet(Path(SHARDS) / "samples.parquet")
    kept = rows[rows["left_out"].isna()]
    train_rows = kept[kept["split"] == "train"]
    folds = {}
    for fold in (0, 1):
        folder = Path(RUNS) / "tiny" / f"fold{fold}"
        oof, last = pd.read_parquet(folder / "oof.parquet"), (folder / "metrics.jsonl").read_text().splitlines()[-1]
        names = {"merged": "auc", "2020": "auc_2020", "2019": "auc_2019"}
        auc = {name: round(json.loads(last)[field], 4) for name, field in names.items()}
        folds[str(fold)] = {"samples": len(oof), "melanomas": int(oof["target"].sum()), "auc_last_epoch": auc}
    record = {
        "what": "A small biased part of the ISIC images, tiny from random weights at 256 px, AUC of the held-out fold "
        "after the last epoch: it compares systems with each other and says nothing of clinical use",
        "epochs": EPOCHS,
        "train_rows": len(train_rows),
        "train_melanomas": int((train_rows["target"] == 1).sum()),
        "test_rows": int((kept["split"] == "test").sum()),
        "folds": folds,
    }
    write(RESULTS / "sample.json", record)


if __name__ == "__main__":
    main(sys.argv[1])
