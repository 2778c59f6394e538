"""The progress of an epoch: the loss so far, the speed, the wait for data, and the first loss that is not finite."""

import json
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Self

import torch
from torch import Tensor

from configs.errors import UserError
from configs.schema import TrainConfig
from engine.data import Data
from engine.distributed import Ranks
from engine.interrupt import Stopped
from engine.optim import Schedule
from engine.records import Records, member_folder
from engine.state import RunState
from loaders.batch import Batch
from loaders.meter import WaitMeter

_REFRESH = 0.5  # seconds between two reads of the losses
_NO_STEP = -1


class Reading:
    """Values on their way from the device: requested at one step, read at a later one, without waiting in between."""

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
        """Whether `values` would return without waiting."""
        return self._event is None or bool(self._event.query())  # type: ignore[no-untyped-call]

    def values(self) -> list[float]:
        """The values; waits for them if they have not arrived yet."""
        if self._event is not None:
            self._event.synchronize()
        found: list[float] = self._host.tolist()
        return found


class EpochProgress:
    """Shows and logs an epoch's losses periodically, and checks that they are finite, without waiting for the device.

    As a context manager it logs what is pending when the run is asked to stop.
    """

    def __init__(self, config: TrainConfig, ranks: Ranks, state: RunState, data: Data, records: Records | None) -> None:
        self._config, self._ranks, self._state, self._data, self._records = config, ranks, state, data, records
        self._partition = data.samples.partition
        self._size = config.progressive.size_in(state.epoch, data.samples.shards.size)
        self._schedule = Schedule(optim=config.optim, steps_per_epoch=self._partition.steps, epochs=config.epochs)
        self._meter = WaitMeter(ranks.device)
        self._stages = data.loader.clock.copy()
        self._first = state.step
        self._start = self._shown = time.perf_counter()
        self._reading: Reading | None = None
        self._to_log: deque[tuple[int, Reading]] = deque()
        self._logging = threading.Lock()
        self._bad_step = torch.full((), _NO_STEP, dtype=torch.int64, device=ranks.device)
        self._bad_loss = torch.zeros((), device=ranks.device)
        self._bad_index = torch.zeros(self._partition.local_batch_size, dtype=torch.int64, device=ranks.device)
        if records is not None:
            records.begin_epoch(f"{state.epoch + 1}/{config.epochs}", self._partition.steps, state.step)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is Stopped:
            self.flush()

    def over(self, stream: Iterable[Batch]) -> Iterator[Batch]:
        """The batches; the wait for each of them is timed."""
        return self._meter.over(stream)

    def add(self, loss: Tensor, batch: Batch) -> None:
        """Add the loss of the step that the state has just consumed."""
        bad = ~loss.isfinite() & (self._bad_step == _NO_STEP)
        self._bad_step = torch.where(bad, batch.step, self._bad_step)
        self._bad_loss = torch.where(bad, loss, self._bad_loss)
        self._bad_index = torch.where(bad, batch.index, self._bad_index)
        if self._config.log_every and self._state.step % self._config.log_every == 0:
            whole = self._ranks.sum(loss.double()) / self._ranks.world_size
            self._to_log.append((self._state.step, Reading(whole[None])))
        self._write_log()
        now = time.perf_counter()
        if self._reading is not None and self._reading.here:
            self._show(self._reading, now)
            self._reading = None
        elif self._reading is None and now - self._shown > _REFRESH:
            self._shown = now
            self._reading = Reading(torch.stack([self._state.loss_sum, self._bad_step.double()]))

    def flush(self) -> None:
        """Wait for all steps so far and log them; raises UserError if a loss is not finite."""
        self._write_log(wait=True)
        if int(self._bad_step.item()) != _NO_STEP:
            self._raise_not_finite()

    def settling(self) -> Callable[[], bool]:
        """A function that waits for the steps so far, logs them, and returns whether all their losses are finite.

        For another thread: this one goes on, and raises the error by itself when it learns of a loss that is not.
        """
        bad_step = Reading(self._bad_step[None])

        def settled() -> bool:
            finite = bad_step.values()[0] == _NO_STEP
            self._write_log()  # what was read before has arrived too
            return finite

        return settled

    def finish(self) -> tuple[dict[str, float], str]:
        """The epoch's mean loss, images/s over all ranks and this rank's data waits; and a sentence on the waits."""
        self.flush()
        loader, config, samples = self._data.loader, self._config, self._partition.samples
        report = self._meter.report(loader.clock.since(self._stages))
        on_gpu = self._ranks.device.type == "cuda"
        seen = min((self._state.step - self._first) * config.batch_size, samples)
        figures = {
            "image_size": float(self._size),
            "train_loss": float(self._ranks.sum(self._state.loss_sum).item()) / samples,
            "images_per_s": seen / (time.perf_counter() - self._start),
            "learning_rate": self._learning_rate(self._state.step),
            "damaged": float(loader.corrupt_samples),
            **report.figures(),
        }
        return figures, report.verdict(placement=loader.placement, cache=config.loader.cache, on_gpu=on_gpu)

    def _learning_rate(self, steps: int) -> float:
        """The learning rate of the last of `steps` steps of this epoch."""
        return self._schedule.learning_rate(self._state.epoch, max(0, steps - 1))

    def _write_log(self, *, wait: bool = False) -> None:
        with self._logging:
            while self._to_log and (wait or self._to_log[0][1].here):
                step, reading = self._to_log.popleft()
                if self._records is not None:
                    figures = {"loss": reading.values()[0], "learning_rate": self._learning_rate(step)}
                    total = self._schedule.step_of_run(self._state.epoch, step)
                    self._records.step(self._state.epoch, step, total, figures)

    def _show(self, reading: Reading, now: float) -> None:
        loss_sum, bad_step = reading.values()
        if bad_step != _NO_STEP:
            self._raise_not_finite()
        if self._records is not None:
            step = self._state.step
            speed = (step - self._first) * self._config.batch_size / (now - self._start)
            seen = step * self._partition.mean_share
            self._records.progress(step, speed=speed, loss=loss_sum / seen, waiting=self._meter.waiting)

    def _raise_not_finite(self) -> None:
        """Raise on the rank that saw it; when its process ends, torchrun ends the others."""
        step, index, epoch = int(self._bad_step.item()), self._bad_index.tolist(), self._state.epoch
        loss, optim = float(self._bad_loss.item()), self._config.optim
        assert not math.isfinite(loss)
        path = member_folder(self._config) / "nonfinite.json"
        facts = {"epoch": epoch, "step": step, "loss": str(loss), "index": index}
        keys = [str(self._data.samples.shards.key[number]) for number in index]
        path.write_text(json.dumps({**facts, "key": keys}) + "\n")
        shown = ", ".join(str(number) for number in index[:8])
        raise UserError(
            f"the loss is {loss} at step {step + 1} of epoch {epoch + 1}, learning rate "
            f"{self._schedule.learning_rate(epoch, step):.3g}, samples {shown}, ... (all in {path}); earlier "
            f"checkpoints are kept: start from scratch (--resume never) with a lower --optim.lr (now {optim.lr}) or "
            "--optim.clip_grad 1"
        )
