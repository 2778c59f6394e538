"""Train one member: one backbone on one fold.

    python train.py --backbone tiny --fold 0
    torchrun --nproc-per-node 2 train.py --shards shards/isic --backbone resnest50 --fold 0

Writes OUT/BACKBONE/foldK: best.pt, last.pt, oof.parquet, metrics.jsonl, config.yaml and TensorBoard events.
Run again after an interruption, it goes on after the last finished epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from configs.cli import parse, run_command, with_recipe
from configs.schema import TrainConfig

if TYPE_CHECKING:
    from engine.session import Session


def main(argv: Sequence[str]) -> None:
    """Parse, build, fit, close."""
    argv = with_recipe(argv, TrainConfig.backbone)
    config = parse(TrainConfig, argv, prog="python train.py", description=(__doc__ or "").split("\n")[0])
    from engine.distributed import joined_ranks  # after the parsing: torch is heavy, and --help should not wait
    from engine.session import open_session

    with joined_ranks(config.device) as ranks, open_session(config, ranks) as session:
        if session.finished:
            if ranks.first:
                print(f"{session.folder} is finished (best AUC {session.best['auc']:.4f}): nothing to do")
            return
        fit(session)


def fit(session: Session) -> None:
    """Epochs of training and validation, until the last one or until the AUC has not risen for `patience` epochs."""
    from engine.session import BEST, LAST
    from engine.validate import validate, write_oof

    config = session.config
    for epoch in range(session.next_epoch, config.epochs):
        trained = train_epoch(session, epoch)
        validation, metrics = validate(session)
        if session.best["epoch"] < 0 or metrics["auc"] > session.best["auc"]:
            session.best = {"epoch": epoch, "auc": metrics["auc"]}
            session.save(BEST, epoch, validation)
        stale = epoch - session.best["epoch"]
        last = epoch + 1 == config.epochs or 0 < config.patience <= stale
        if last:
            write_oof(session, validation)
        if session.records is not None:
            session.records.epoch(epoch, {**trained, **metrics})
        session.save(LAST, epoch, validation, finished=last)
        session.say(summary(config, epoch, trained, metrics, best=stale == 0))
        if last:
            session.say(session.fed)
            session.say(f"{session.folder}: best AUC {session.best['auc']:.4f} in epoch {session.best['epoch'] + 1}")
            return


def train_epoch(session: Session, epoch: int) -> dict[str, float]:
    """One pass over the training rows; returns the mean loss, images/s and the share of time spent waiting for data."""
    from engine.progress import EpochProgress
    from models.losses import masked_bce

    config, network, optimizer = session.config, session.network, session.optimizer
    session.seed_dropout(epoch)
    progress = EpochProgress(session, epoch)
    network.train()
    for batch in progress.over(session.train_epoch_batches()):
        # ---- the hot step: nothing in it waits for the device ----
        with session.autocast():
            logit = network(batch.image, batch.meta)
        loss = masked_bce(
            logit,
            batch.target,
            batch.valid,
            positive_weight=session.positive_weight,
            label_smoothing=config.optim.label_smoothing,
            divisor=session.partition.local_batch_size,
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        session.clip_gradients()
        optimizer.step()
        session.schedule.step()
        # ---------------------------------------------------------
        progress.add(loss.detach())
    return progress.finish()


def summary(
    config: TrainConfig, epoch: int, trained: dict[str, float], metrics: dict[str, float], *, best: bool
) -> str:
    """The line of an epoch, for a person."""
    sources = "  ".join(f"{name[4:]} {metrics[name]:.4f}" for name in sorted(metrics) if name.startswith("auc_2"))
    return (
        f"epoch {epoch + 1}/{config.epochs}  loss {trained['train_loss']:.4f}  val loss {metrics['loss']:.4f}  "
        f"AUC {metrics['auc']:.4f} ({sources})  {trained['images_per_s']:,.0f} img/s  "
        f"waiting {trained['waiting']:.0%}" + ("  best" if best else "")
    )


if __name__ == "__main__":
    run_command(main)
