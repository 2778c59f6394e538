"""The progress of a run: together with the trainer's tensors, all that changes while it trains."""

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor


@dataclass(kw_only=True)
class RunState:
    """The position of a run and its best epoch so far.

    epoch, step: the cursor, from 0; `step` steps of `epoch` have been consumed, all of them if only its evaluation is
    left. best_epoch: -1 before the first evaluation, and always without a held-out fold; best_score: its validation
    metric. loss_sum: float64 scalar on the device, the sum of this rank's losses in the epoch. finished: whether the
    last epoch is over, and evaluated if a fold is held out.
    """

    loss_sum: Tensor
    epoch: int = 0
    step: int = 0
    best_epoch: int = -1
    best_score: float = float("nan")
    finished: bool = False

    @classmethod
    def at(cls, saved: dict[str, Any] | None, device: torch.device, world_size: int) -> Self:
        """The state in the checkpoint `saved`, its loss sum split among the ranks; the initial state if it is None."""
        state = cls(loss_sum=torch.zeros((), dtype=torch.float64, device=device))
        if saved is not None:
            state.epoch, state.step, state.finished = saved["epoch"], saved["step"], saved["finished"]
            state.best_epoch, state.best_score = saved["best"]["epoch"], saved["best"]["score"]
            state.loss_sum += saved["loss_sum"] / world_size
        return state

    @property
    def begun(self) -> bool:
        """Whether any step has been consumed."""
        return bool(self.epoch or self.step)

    def best_words(self, monitor: str) -> str:
        """The best value of the metric `monitor` so far and its epoch, for the user; or that no fold is held out."""
        if self.best_epoch < 0:
            return f"epoch {self.epoch}, no fold held out"
        return f"best {monitor} {self.best_score:.4f} in epoch {self.best_epoch + 1}"

    def values(self) -> dict[str, Any]:
        """What a checkpoint stores, except the loss sum, which it stores summed over all ranks."""
        best = {"epoch": self.best_epoch, "score": self.best_score}
        return {"epoch": self.epoch, "step": self.step, "finished": self.finished, "best": best}

    def consume(self, loss: Tensor, samples: float) -> None:
        """Count one step; `loss` is the sum over this rank's valid samples divided by `samples` (engine/step.py)."""
        self.step += 1
        self.loss_sum += loss.double() * samples

    def judge(self, score: float, *, lower_is_better: bool) -> bool:
        """Record this epoch's validation metric; returns whether it is the best so far."""
        sign = -1 if lower_is_better else 1
        best = self.best_epoch < 0 or sign * score > sign * self.best_score
        if best:
            self.best_epoch, self.best_score = self.epoch, score
        return best

    def end_epoch(self, *, finished: bool) -> None:
        """Move the cursor to the next epoch."""
        self.epoch, self.step, self.finished = self.epoch + 1, 0, finished
        self.loss_sum.zero_()
