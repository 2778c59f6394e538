"""Train one member (one backbone on one fold), or several of each: one after the other, or by Ray or SLURM.

    python train.py --backbone tiny --fold 0
    torchrun --nproc-per-node 2 train.py --shards shards/isic --backbone resnest50 --fold 0
    python train.py --backbone efficientnet_b1 efficientnet_b3 --fold all
    python train.py --backbone efficientnet_b1 efficientnet_b3 --fold all --launch ray
    python train.py --backbone efficientnet_b1 --fold none --epochs 12

Writes OUT/BACKBONE/foldK: best.pt, last.pt, oof.parquet, metrics.jsonl, training_curves.png, config.yaml and
TensorBoard events; with --fold none, which trains on all folds, neither best.pt nor oof.parquet. After Ctrl-C, SIGTERM
or a crash, the same command continues from the last saved step.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from configs.cli import run_command
from configs.errors import UserError
from configs.grid import parse_grid
from configs.launcher import STOPPED, is_launched, stop_when_told

if TYPE_CHECKING:
    from pathlib import Path

    from configs.schema import TrainConfig
    from engine.run import Run


def main(argv: Sequence[str]) -> None:
    """Parse; then build, fit and close one member after the other."""
    stop_when_told()
    configs = parse_grid(argv, prog="python train.py", description=(__doc__ or "").split("\n")[0])
    if configs[0].launch.by != "none":
        launch(argv, configs)
        return
    # Imported after parsing: torch is slow to import, and --help should not wait for it.
    from engine.distributed import joined_ranks
    from engine.interrupt import Stopped
    from engine.memory import explained_memory
    from engine.nodes import require_one_training
    from engine.records import CURVES, member_folder
    from engine.run import is_finished, only_trainer, open_run
    from engine.tune import tune
    from report.table import print_table

    with joined_ranks(configs[0].device, timeout=configs[0].timeout) as ranks:
        try:
            require_one_training(configs, ranks)
            for config in configs:
                with explained_memory(config, ranks):
                    if not is_finished(config, ranks):
                        if config.autotune:
                            tune(config, ranks)
                        with open_run(config, ranks) as run:
                            fit(run)
                folder = member_folder(config)
                if ranks.first and not (folder / CURVES).is_file():  # of a member that was finished before
                    with only_trainer(folder):
                        draw_curves(folder)
        except Stopped:
            if is_launched():
                sys.exit(STOPPED)
            return
        if len(configs) > 1 and ranks.first:
            print_table(configs)


def launch(argv: Sequence[str], configs: list[TrainConfig]) -> None:
    """Have Ray or SLURM train the members. Raises UserError if some are not finished after that."""
    from engine.launch import launch_grid

    states = launch_grid(argv, configs)
    from report.table import print_table  # imports torch, which the launcher needs at the end only

    print_table(configs, states)
    unfinished = [name for name, state in states.items() if state != "finished"]
    if unfinished:
        raise UserError(f"not finished: {', '.join(unfinished)}; the same command continues with these alone")


def fit(run: Run) -> None:
    """Train and validate until the last epoch, or until nothing has improved for `patience` epochs.

    Trains nothing where another process has finished the member since it was looked for.
    """
    fed = ""
    while not run.state.finished:
        epoch = run.state.epoch
        trained, fed = train_epoch(run)
        predictions, metrics = run.validate()
        best = run.end_epoch(predictions, {**trained, **metrics})
        run.say(summary(run.config, epoch, trained, metrics, best=best))
    run.write_results()
    if run.ranks.first:
        draw_curves(run.folder)
    if fed:
        run.say(fed)
    run.say(f"{run.folder}: {run.state.best_words(run.config.monitor)}")
    run.stop.check()  # a signal that arrives after the last batch still ends a grid


def draw_curves(folder: Path) -> None:
    """Draw training_curves.png from a member's metrics.jsonl; only while no other process writes there."""
    from engine.records import CURVES  # matplotlib is slow to import
    from report.figures import member_curves

    member_curves(folder, folder / CURVES)


def train_epoch(run: Run) -> tuple[dict[str, float], str]:
    """Train the rest of an epoch; returns its mean loss, images/s and data waits, and a sentence on what bounded it."""
    share = run.data.samples.partition.mean_share
    run.trainer.model.train()
    with run.epoch_progress() as progress:
        for batch in progress.over(run.stop.over(run.data.train_batches(run.state))):
            # ---- the hot step (engine/step.py): it waits for no other step than the third before it ----
            loss = run.trainer.step(batch)
            # --------------------------------------------------------------------------------------------
            run.state.consume(loss, share)
            progress.add(loss, batch)
            run.save_if_due(progress)
        return progress.finish()


def summary(
    config: TrainConfig, epoch: int, trained: dict[str, float], metrics: dict[str, float], *, best: bool
) -> str:
    """The line that reports an epoch to the user; `metrics` is empty if no fold is held out."""
    judged = ""
    if metrics:
        sources = "  ".join(f"{name[4:]} {metrics[name]:.4f}" for name in ("auc_2019", "auc_2020"))
        judged = f"val loss {metrics['loss']:.4f}  AUC {metrics['auc']:.4f} ({sources})  "
    size = f"{trained['image_size']:.0f} px  " if config.progressive.epochs else ""
    return (
        f"epoch {epoch + 1}/{config.epochs}  {size}loss {trained['train_loss']:.4f}  {judged}"
        f"{trained['images_per_s']:,.0f} img/s  waiting {trained['waiting']:.0%}" + ("  best" if best else "")
    )


if __name__ == "__main__":
    run_command(main)
