"""Train one member, one backbone on one fold, or several of each one after the other.

    python train.py --backbone tiny --fold 0
    torchrun --nproc-per-node 2 train.py --shards shards/isic --backbone resnest50 --fold 0
    python train.py --backbone efficientnet_b1 efficientnet_b3 --fold all

Writes OUT/BACKBONE/foldK: best.pt, last.pt, oof.parquet, metrics.jsonl, training_curves.png, config.yaml and
TensorBoard events. Interrupted by Ctrl-C, SIGTERM or worse, the same command goes on at the last saved step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from configs.cli import run_command
from configs.grid import parse_grid

if TYPE_CHECKING:
    from configs.schema import TrainConfig
    from engine.distributed import Ranks
    from engine.interrupt import StopRequest
    from engine.session import Session


def main(argv: Sequence[str]) -> None:
    """Parse, build, fit, close; for one member after the other."""
    configs = parse_grid(argv, prog="python train.py", description=(__doc__ or "").split("\n")[0])
    from engine.distributed import joined_ranks  # after the parsing: torch is heavy, and --help should not wait
    from engine.interrupt import Stopped
    from engine.table import print_table

    with joined_ranks(configs[0].device) as ranks:
        try:
            for config in configs:
                train_member(config, ranks)
        except Stopped:
            return
        if len(configs) > 1 and ranks.first:
            print_table(configs)


def train_member(config: TrainConfig, ranks: Ranks) -> None:
    """One member, from wherever it stands to its end. Raises Stopped, all being saved, where it was asked to end."""
    from engine.interrupt import Stopped, StopRequest
    from engine.memory import explained_memory
    from engine.session import open_session
    from engine.validate import write_results

    with explained_memory(config, ranks), open_session(config, ranks) as session:
        if session.finished:
            write_results(session)
            if ranks.first:
                print(f"{session.folder} is finished ({session.best_words}): nothing to do")
            return
        with StopRequest(ranks) as stop:
            try:
                fit(session, stop)
            except Stopped:
                if not session.finished:
                    session.save()
                session.say(
                    f"stopped by {stop.name} after step {session.step} of {session.partition.steps} in epoch "
                    f"{session.epoch + 1}: {session.folder} is saved, the same command goes on from there"
                )
                raise


def fit(session: Session, stop: StopRequest) -> None:
    """Epochs of training and validation, until the last one or until nothing has improved for `patience` epochs."""
    from engine.validate import take_note, validate, write_results

    while not session.finished:
        epoch = session.epoch
        trained = train_epoch(session, stop)
        validation, metrics = validate(session, stop)
        last = take_note(session, metrics)
        session.end_epoch(validation, {**trained, **metrics}, finished=last)
        session.say(summary(session.config, epoch, trained, metrics, best=session.best["epoch"] == epoch))
    write_results(session)
    session.say(session.fed)
    session.say(f"{session.folder}: {session.best_words}")
    stop.check()  # a signal that came after the last batch still ends a grid


def train_epoch(session: Session, stop: StopRequest) -> dict[str, float]:
    """What is left of an epoch; returns the epoch's mean loss, images/s and the share of time that data cost."""
    from engine.interrupt import Stopped
    from engine.progress import EpochProgress

    progress = EpochProgress(session)
    session.model.train()
    try:
        for batch in progress.over(stop.over(session.train_epoch_batches())):
            # ---- the hot step: nothing in it waits for the device ----
            session.begin_step()
            loss = session.gradients(batch)
            session.apply_gradients()
            # ---------------------------------------------------------
            progress.add(loss, batch)
            if session.step % session.config.save_every == 0 and session.step < session.partition.steps:
                progress.settle()
                session.save()
    except Stopped:
        progress.settle()  # what is still on its way from the device belongs to the steps that are saved
        raise
    return progress.finish()


def summary(
    config: TrainConfig, epoch: int, trained: dict[str, float], metrics: dict[str, float], *, best: bool
) -> str:
    """The line of an epoch, for a person."""
    sources = "  ".join(f"{name[4:]} {metrics[name]:.4f}" for name in ("auc_2019", "auc_2020"))
    return (
        f"epoch {epoch + 1}/{config.epochs}  loss {trained['train_loss']:.4f}  val loss {metrics['loss']:.4f}  "
        f"AUC {metrics['auc']:.4f} ({sources})  {trained['images_per_s']:,.0f} img/s  "
        f"waiting {trained['waiting']:.0%}" + ("  best" if best else "")
    )


if __name__ == "__main__":
    run_command(main)
