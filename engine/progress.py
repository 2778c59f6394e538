"""An epoch as it goes: the loss so far, the speed, and the wait for data."""

import math
import time
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from configs.errors import UserError
from engine.session import Session
from loaders.meter import WaitMeter
from loaders.stream import Batch

_REFRESH = 0.5  # seconds between two looks at the loss, each of which waits for the device


class EpochProgress:
    """Adds up an epoch's losses on the device and shows them now and then."""

    def __init__(self, session: Session, epoch: int) -> None:
        self._session = session
        self._epoch = epoch
        self._meter = WaitMeter(session.ranks.device)
        self._stages = session.loader.source.clock.copy()
        self._loss = torch.zeros((), dtype=torch.float64, device=session.ranks.device)
        self._steps = 0
        self._start = self._shown = time.perf_counter()
        if session.records is not None:
            session.records.begin_epoch(f"{epoch + 1}/{session.config.epochs}", session.partition.steps)

    def over(self, stream: Iterable[Batch]) -> Iterator[Batch]:
        """The batches, with the wait for each of them timed."""
        return self._meter.over(stream)

    def add(self, loss: Tensor) -> None:
        """Take the loss of one step: the sum over this rank's valid samples over its batch size."""
        self._loss += loss
        self._steps += 1
        now = time.perf_counter()
        if self._session.records is not None and now - self._shown > _REFRESH:
            self._shown = now
            loss_so_far = float(self._loss.item()) / self._steps
            speed = self._steps * self._session.config.batch_size / (now - self._start)
            self._session.records.progress(self._steps, speed=speed, loss=loss_so_far, waiting=self._meter.waiting)

    def finish(self) -> dict[str, float]:
        """Mean loss a sample over all ranks, images/s of all ranks, and how this rank was fed."""
        session = self._session
        losses = float(session.ranks.sum(self._loss).item()) * session.partition.local_batch_size
        if not math.isfinite(losses):
            raise UserError(
                f"the loss is {losses} in epoch {self._epoch + 1}; the last good checkpoint is kept: start anew with "
                f"a lower --optim.lr (now {session.config.optim.lr}) or with --optim.clip_grad 1"
            )
        samples = session.partition.samples
        loader, on_gpu = session.loader, session.ranks.device.type == "cuda"
        fed = self._meter.report(loader.source.clock.since(self._stages))
        session.fed = fed.verdict(placement=loader.placement, cache=session.config.loader.cache, on_gpu=on_gpu)
        return {
            "train_loss": losses / samples,
            "images_per_s": samples / (time.perf_counter() - self._start),
            "learning_rate": float(session.schedule.get_last_lr()[0]),
            "damaged": float(len(session.loader.source.damage.found)),
            **fed.figures(),
        }
