"""One whole training step: learning rate, dropout seed, forward, loss, backward, clipping, optimiser, moving average.

engine/prepare_step.py compiles, distributes and captures it; engine/trainer.py builds it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from engine.optim import MovingAverage, Schedule, set_learning_rate
from loaders.batch import TENSORS, Batch
from models.losses import Objective


@dataclass(frozen=True, kw_only=True)
class Step:
    """Batch -> its mean loss, float32 scalar; updates the weights.

    Nothing waits for the device, but for `lead`, which keeps the host from running too far ahead of it. Learning rate,
    dropout and the average's decay are functions of the batch's epoch and step, so a resumed run needs no state for
    them. They are set here; `iteration` reads them.
    """

    iteration: Callable[[Batch], Tensor]
    optimizer: torch.optim.Optimizer
    average: MovingAverage | None
    schedule: Schedule
    seed: int
    rank: int
    lead: Callable[[], None]

    def __call__(self, batch: Batch) -> Tensor:
        """Train on one batch; the loss may be overwritten by the next call."""
        set_learning_rate(self.optimizer, self.schedule.learning_rate(batch.epoch, batch.step))
        if self.average is not None:
            self.average.set_step(self.schedule.step_of_run(batch.epoch, batch.step))
        # torch.manual_seed would also note who calls it, in words, for each kind of device that is not there.
        seed = dropout_seed(self.seed, batch.epoch, batch.step, self.rank)
        torch.default_generator.manual_seed(seed)
        if batch.image.is_cuda:
            torch.cuda.manual_seed(seed)
        loss = self.iteration(batch)
        self.lead()
        return loss


class Lead:
    """Bounds how many steps the host queues ahead of a GPU, to be called after each of them.

    A replayed graph costs the host next to nothing, so it would queue a whole epoch, and every batch that waits on the
    device takes memory, which DALI never gives back. The wait is for a step that was queued three steps ago: the GPU
    still has the others to do. It sleeps (blocking=True) and leaves its core to the loader.
    """

    def __init__(self, event: Callable[..., torch.cuda.Event] = torch.cuda.Event, *, steps: int = 3) -> None:
        self._event = event
        self._steps = steps
        self._queued: deque[torch.cuda.Event] = deque()

    def __call__(self) -> None:
        """Mark the step that was queued last; return when at most `steps` are not done."""
        if len(self._queued) < self._steps:
            event = self._event(blocking=True)
        else:
            event = self._queued.popleft()
            event.synchronize()
        event.record()
        self._queued.append(event)


def lead_over(device: torch.device) -> Callable[[], None]:
    """A Lead on a GPU; on a CPU, where a step is done when it returns, nothing."""
    return Lead() if device.type == "cuda" else lambda: None


@dataclass(frozen=True, kw_only=True)
class Iteration:
    """Batch -> its mean loss, float32 scalar; updates the weights and their average.

    The same work on the device for each batch, so that a CUDA graph can hold all of it.
    """

    gradients: Gradients
    optimizer: torch.optim.Optimizer
    average: MovingAverage | None
    parameters: list[nn.Parameter]
    clip_grad: float

    def __call__(self, batch: Batch) -> Tensor:
        """Gradients, clipping, optimiser, moving average."""
        loss, scaler = self.gradients(batch), self.gradients.scaler
        scaler.unscale_(self.optimizer)
        if self.clip_grad:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.clip_grad)
        scaler.step(self.optimizer)
        scaler.update()
        if self.average is not None:
            self.average.update()
        return loss


@dataclass(frozen=True, kw_only=True)
class Gradients:
    """Batch -> its mean loss, float32 scalar; leaves the gradients in the parameters.

    The batch goes through `network` in `parts` equal parts, or parts that differ by one sample. The loss is summed over
    the valid samples and divided by `samples`, the global batch divided by the number of ranks: the mean that
    DistributedDataParallel takes over the ranks is then the mean over the global batch, whatever each rank's share.
    """

    network: nn.Module
    objective: Objective
    autocast: Callable[[], AbstractContextManager[Any]]
    scaler: torch.amp.GradScaler
    samples: float
    parts: int = 1

    def __call__(self, batch: Batch) -> Tensor:
        """Forward, loss and backward."""
        self.network.zero_grad(set_to_none=True)
        total = torch.zeros((), device=batch.image.device)
        for number, part in enumerate(_parts(batch, self.parts)):
            with self._exchange(last=number + 1 == self.parts):
                with self.autocast():
                    logits = self.network(part.image, part.meta)
                loss = self.objective.loss(logits, part.target, part.diagnosis, part.valid, divisor=self.samples)
                self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        return total

    def _exchange(self, *, last: bool) -> AbstractContextManager[Any]:
        """Make ranks exchange gradients once per batch, with its last part."""
        if last or not isinstance(self.network, DistributedDataParallel):
            return nullcontext()
        return self.network.no_sync()


def dropout_seed(seed: int, epoch: int, step: int, rank: int) -> int:
    """A seed for the dropout masks of one step on one rank, 64 bits."""
    return int(np.random.SeedSequence([seed, epoch, step, rank]).generate_state(1, np.uint64)[0])


def _parts(batch: Batch, parts: int) -> Iterator[Batch]:
    if parts == 1:
        yield batch
        return
    for tensors in zip(*(getattr(batch, name).tensor_split(parts) for name in TENSORS), strict=True):
        yield replace(batch, **dict(zip(TENSORS, tensors, strict=True)))
