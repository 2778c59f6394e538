"""The literal commands on a folder with a part of the real ISIC images, and what came out of them, as a record.

    python -m scripts.record_sample ../shared/data/isic-sample tf_efficientnet_lite0.safetensors

Two small backbones on five folds at 128 px: tiny from random weights (its fold 0 by two ranks), and EfficientNet-Lite0
from the given ImageNet weights. The figures compare systems with each other; measured on a small, biased part of the
images, they say nothing of clinical use.
"""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pandas as pd

from benchmarks.record import RESULTS, write

SHARDS, RUNS, OUT = "shards/sample128", "runs/sample", "runs/sample/outputs"
EPOCHS = {"tiny": 6, "tf_efficientnet_lite0": 3}


def main(isic: str, weights: str) -> None:
    """Run the commands, then record counts and the judgement of the ensemble."""
    tiny, pretrained = (
        f"train.py --shards {SHARDS} --out {RUNS} --patience 0 --backbone {backbone} --epochs {epochs}"
        for backbone, epochs in EPOCHS.items()
    )
    for line in (
        f"prep/shard.py --isic2020 {isic}/2020 --isic2019 {isic}/2019 --missing skip --size 128 --out {SHARDS}",
        f"-m torch.distributed.run --standalone --nproc-per-node 2 {tiny} --fold 0",
        f"{tiny} --fold all",
        f"{pretrained} --weights {weights} --batch-size 64 --optim.lr 5e-4 --fold all",
        f"infer.py --ensemble --runs {RUNS} --shards {SHARDS} --out {OUT} "
        f"--sample-submission {isic}/2020/sample_submission.csv",
    ):
        print(f"$ python {line}", flush=True)
        subprocess.run([sys.executable, *shlex.split(line)], check=True)
    rows = pd.read_parquet(Path(SHARDS) / "samples.parquet")
    kept = rows[rows["left_out"].isna()]
    train_rows = kept[kept["split"] == "train"]
    ensemble = json.loads((Path(OUT) / "ensemble.json").read_text())
    judgement = ensemble["judgement"]
    record = {
        "what": "A small biased part of the ISIC images at 128 px, out of fold over five folds with four views: it "
        "compares systems and says nothing of clinical use. AUCs with 95 % intervals of the bootstrap over "
        "patients and lesions; calibration and operating points on folds that they were not fitted on",
        "epochs": EPOCHS,
        "train_rows": len(train_rows),
        "train_melanomas": int((train_rows["target"] == 1).sum()),
        "test_rows": int((kept["split"] == "test").sum()),
        "auc": {row["name"]: row["over_groups"] for row in judgement["table"]},
        "gain_of": {f"{gain['way']} over {gain['over']}": gain["difference"] for gain in judgement["gains"]},
        "calibration": judgement["after"]["merged"],
        "operating_points": {
            f"{point['wanted']:.0%} sensitivity": {
                "sensitivity": point["held_out_sensitivity"],
                "specificity": point["held_out_specificity"],
            }
            for point in judgement["operating_points"]
        },
        "unusual_training_pictures": ensemble["familiarity"]["false_alarms"],
        "flips": {name: found["flips"] for name, found in judgement["stability"].items()},
    }
    write(RESULTS / "sample.json", record)


if __name__ == "__main__":
    main(*sys.argv[1:])
