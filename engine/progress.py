"""An epoch as it goes: the loss so far, the speed, the wait for data, and the first loss that is no number."""

import json
import math
import time
from collections import deque
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from configs.errors import UserError
from engine.session import Session
from loaders.meter import WaitMeter
from loaders.stream import Batch

_REFRESH = 0.5  # seconds between two looks at the losses
_NONE = -1


class Reading:
    """Numbers on their way from the device: asked for at one step, read at a later one, without waiting in between."""

    def __init__(self, values: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        if values.is_cuda:
            self._host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._host.copy_(values, non_blocking=True)
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()
        else:
            self._host = values.clone()

    @property
    def here(self) -> bool:
        """Whether `values` would not wait."""
        return self._event is None or bool(self._event.query())  # type: ignore[no-untyped-call]

    def values(self) -> list[float]:
        """The numbers; waits for them where they are not here yet."""
        if self._event is not None:
            self._event.synchronize()
        found: list[float] = self._host.tolist()
        return found


class EpochProgress:
    """Adds up an epoch's losses on the device, shows and logs them now and then, and watches that they are finite."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._meter = WaitMeter(session.ranks.device)
        self._stages = session.loader.source.clock.copy()
        self._first = session.step
        self._start = self._shown = time.perf_counter()
        self._looking: Reading | None = None
        self._to_log: deque[tuple[int, int, float, Reading]] = deque()
        device = session.ranks.device
        self._bad_step = torch.full((), _NONE, dtype=torch.int64, device=device)
        self._bad_loss = torch.zeros((), device=device)
        self._bad_index = torch.zeros(session.partition.local_batch_size, dtype=torch.int64, device=device)
        if session.records is not None:
            name = f"{session.epoch + 1}/{session.config.epochs}"
            session.records.begin_epoch(name, session.partition.steps, session.step)

    def over(self, stream: Iterable[Batch]) -> Iterator[Batch]:
        """The batches, with the wait for each of them timed."""
        return self._meter.over(stream)

    def add(self, loss: Tensor, batch: Batch) -> None:
        """Take the loss of the step just done: the sum over this rank's valid samples over its share of the batch."""
        session = self._session
        session.loss_sum += loss.double() * session.partition.local_batch_size
        bad = ~loss.isfinite() & (self._bad_step == _NONE)
        self._bad_step = torch.where(bad, batch.step, self._bad_step)
        self._bad_loss = torch.where(bad, loss, self._bad_loss)
        self._bad_index = torch.where(bad, batch.index, self._bad_index)
        if session.config.log_every and session.step % session.config.log_every == 0:
            whole = session.ranks.sum(loss.double()) / session.ranks.world_size
            self._to_log.append(
                (session.epoch, session.step, session.optimizer.param_groups[0]["lr"], Reading(whole[None]))
            )
        self._write_what_came()
        now = time.perf_counter()
        if self._looking is not None and self._looking.here:
            self._show(self._looking, now)
            self._looking = None
        elif self._looking is None and now - self._shown > _REFRESH:
            self._shown = now
            self._looking = Reading(torch.stack([session.loss_sum, self._bad_step.double()]))

    def settle(self) -> None:
        """Write what is still on its way and look at the losses so far; raises UserError where one is not finite."""
        self._write_what_came(wait=True)
        if int(self._bad_step.item()) != _NONE:
            self._raise_not_finite()

    def finish(self) -> dict[str, float]:
        """Mean loss a sample over all ranks, images/s of all ranks, and how this rank was fed."""
        session = self._session
        self.settle()
        samples, steps = session.partition.samples, session.step - self._first
        loader, on_gpu = session.loader, session.ranks.device.type == "cuda"
        fed = self._meter.report(loader.source.clock.since(self._stages))
        session.fed = fed.verdict(placement=loader.placement, cache=session.config.loader.cache, on_gpu=on_gpu)
        seen = min(steps * session.config.batch_size, samples)
        return {
            "train_loss": float(session.ranks.sum(session.loss_sum).item()) / samples,
            "images_per_s": seen / (time.perf_counter() - self._start),
            "learning_rate": session.optimizer.param_groups[0]["lr"],
            "damaged": float(len(session.loader.source.damage.found)),
            **fed.figures(),
        }

    def _write_what_came(self, *, wait: bool = False) -> None:
        while self._to_log and (wait or self._to_log[0][3].here):
            epoch, step, rate, reading = self._to_log.popleft()
            if self._session.records is not None:
                total = epoch * self._session.partition.steps + step
                figures = {"loss": reading.values()[0], "learning_rate": rate}
                self._session.records.step(epoch, step, total, figures)

    def _show(self, reading: Reading, now: float) -> None:
        session = self._session
        loss_sum, bad_step = reading.values()
        if bad_step != _NONE:
            self._raise_not_finite()
        if session.records is not None:
            speed = (session.step - self._first) * session.config.batch_size / (now - self._start)
            seen = session.step * session.partition.local_batch_size
            session.records.progress(session.step, speed=speed, loss=loss_sum / seen, waiting=self._meter.waiting)

    def _raise_not_finite(self) -> None:
        """Only the rank that saw it raises; its end ends the others."""
        session, step, index = self._session, int(self._bad_step.item()), self._bad_index.tolist()
        loss = float(self._bad_loss.item())
        shown = ", ".join(str(number) for number in index[:8])
        path = session.folder / "nonfinite.json"
        facts = {"epoch": session.epoch, "step": step, "loss": str(loss), "index": index}
        path.write_text(json.dumps({**facts, "key": [str(session.shards.key[number]) for number in index]}) + "\n")
        assert not math.isfinite(loss)
        raise UserError(
            f"the loss is {loss} at step {step + 1} of epoch {session.epoch + 1}, learning rate "
            f"{session.learning_rate_at(step):.3g}, batch of the samples {shown}, ... (all in {path}); the last "
            f"good checkpoint is kept: start anew with a lower --optim.lr (now {session.config.optim.lr}) or with "
            "--optim.clip_grad 1"
        )
