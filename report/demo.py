"""The whole way on synthetic data, in the commands that a user would type: `make demo`, or python -m report.demo.

Data -> shards -> two backbones x two folds, and an image-only and a meta-only member -> submissions -> a table of
AUCs beside the best possible one. All of it is written to demo/; a second run continues where the first one stopped.
"""

import json
import shlex
import subprocess
import sys
import time
from dataclasses import asdict, astuple
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table

from configs.schema import ShowConfig
from evaluation.discrimination import Estimate, auc_interval, paired_auc_difference
from loaders.show import draw_grid
from report.figures import auc_bars

ROOT = Path(__file__).resolve().parents[1]
OUT = Path("demo")
BACKBONES = ("tiny", "test_resnet.r160_in1k")
ABLATIONS = ("image", "meta")


def commands() -> list[str]:
    """The command lines of the demo, in their order."""
    train = "train.py --config configs/tiny.yaml --shards demo/shards --epochs 6"
    return [
        "prep/synthetic.py --out demo/data --train 3000 --test 3000",
        "prep/shard.py --isic2020 demo/data/2020 --isic2019 demo/data/2019 --size 64 --out demo/shards",
        f"{train} --backbone {' '.join(BACKBONES)} --fold 0 1 --out demo/runs",
        *(f"{train} --fold 0 --model.inputs {kind} --out demo/ablation/{kind}" for kind in ABLATIONS),
        "infer.py --ensemble --runs demo/runs --shards demo/shards --out demo/submissions",
        "infer.py --runs demo/ablation --shards demo/shards --out demo/submissions",
        "-m report --runs demo/runs --shards demo/shards --predictions demo/submissions --out demo/report",
    ]


def main() -> None:
    """Run the commands, then draw and print what came out."""
    console = Console()
    start = time.perf_counter()
    for line in commands():
        console.print(f"[bold]$ python {line}[/bold]", highlight=False, soft_wrap=True)
        finished = subprocess.run([sys.executable, *shlex.split(line)], cwd=ROOT, check=False)
        if finished.returncode:
            sys.exit(finished.returncode)
    draw_grid(ShowConfig(shards=str(ROOT / OUT / "shards")), ROOT / OUT / "samples.png")
    judge(console, minutes=(time.perf_counter() - start) / 60)


def judge(console: Console, *, minutes: float) -> None:
    """Compare every submission with the truth that prep never saw; write demo/results.json and auc.png."""
    truth = pd.read_csv(ROOT / OUT / "data" / "truth.csv", index_col="image_name")
    truth = truth[truth["split"] == "test"].sort_index()
    target = truth["target"].to_numpy()
    best = auc_interval(target, truth["logit"].to_numpy())
    files = sorted((ROOT / OUT / "submissions").glob("submission_*.csv"))
    submitted = {file.stem.removeprefix("submission_"): pd.read_csv(file, index_col="image_name") for file in files}
    scores = {name: table.loc[truth.index, "target"].to_numpy() for name, table in submitted.items()}
    scores["ensemble"] = scores.pop("ensemble")  # last
    estimates = {name: auc_interval(target, score) for name, score in scores.items()}
    both = scores["tiny_fold0"]
    paired = {kind: paired_auc_difference(target, both, scores[f"{kind}_tiny_fold0"]) for kind in ABLATIONS}
    results = {
        "test_images": len(target),
        "test_melanomas": int(target.sum()),
        "minutes": round(minutes, 2),
        "best_possible": _plain(best),
        "auc": {name: _plain(estimate) for name, estimate in estimates.items()},
        "covered": round(_share(estimates["ensemble"], best), 4),
        "tiny_fold0_minus": {kind: _plain(estimate) for kind, estimate in paired.items()},
    }
    (ROOT / OUT / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    auc_bars({name: astuple(estimate) for name, estimate in estimates.items()}, best.value, ROOT / OUT / "auc.png")
    _print(console, estimates, best, paired, minutes)


def _share(auc: Estimate, best: Estimate) -> float:
    """Share of the way from chance (0.5) to the best possible AUC."""
    return (auc.value - 0.5) / (best.value - 0.5)


def _print(
    console: Console, estimates: dict[str, Estimate], best: Estimate, paired: dict[str, Estimate], minutes: float
) -> None:
    title = f"AUC on the synthetic test images, and its share of the way from 0.5 to the best ({minutes:.1f} minutes)"
    table = Table(title=title, title_justify="left")
    for heading in ("member", "AUC", "95 % interval", "share"):
        table.add_column(heading, justify="left" if heading == "member" else "right")
    for name, estimate in {**estimates, "best possible": best}.items():
        interval = f"{estimate.low:.3f} to {estimate.high:.3f}"
        table.add_row(name, f"{estimate.value:.3f}", interval, f"{_share(estimate, best):.0%}")
    console.print(table)
    for kind, estimate in paired.items():
        interval = f"95 % {estimate.low:+.3f} to {estimate.high:+.3f}"
        console.print(f"tiny_fold0 minus its {kind}-only form: {estimate.value:+.3f} ({interval})", highlight=False)
    console.print(
        f"Submissions and results.json are in {OUT}/; the report is {OUT}/report/report.html", highlight=False
    )


def _plain(estimate: Estimate) -> dict[str, float]:
    return {name: round(number, 4) for name, number in asdict(estimate).items()}


if __name__ == "__main__":
    main()
