"""Everything a training run consists of, built in the order it depends on each other, and closed again."""

import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from configs.errors import UserError
from configs.schema import TrainConfig
from engine.checkpoint import save_checkpoint
from engine.distributed import Ranks
from engine.evaluate import Predictions
from engine.network import build_network
from engine.optim import MovingAverage, create_optimizer, learning_rate, load_optimizer, set_learning_rate
from engine.records import Records, member_folder
from engine.resume import BEST, CURVES, LAST, OOF, continued, digests, mend_best, save_best
from engine.step import Step, autocast_of, blank_batch, chosen_dtype, prepared_step
from engine.tune import chosen_finding, tune
from loaders.order import Indices, Partition
from loaders.placement import open_loader
from loaders.shards import ShardSet
from loaders.stream import Batch, BlankRenderer, batches, eval_requests, train_requests
from prep.metadata import FEATURES


class Session:
    """One member in training: data, model, optimiser and records of this rank.

    (epoch, step) is the cursor: `step` steps of `epoch` have been consumed; step = partition.steps means that the epoch
    waits for its evaluation. Order, augmentation, learning rate and dropout are functions of it, so that it and the
    tensors are all that a checkpoint needs.
    """

    def __init__(self, config: TrainConfig, ranks: Ranks, resources: ExitStack) -> None:
        self.config = config
        self.ranks = ranks
        self.folder = member_folder(config)
        self.shards = ShardSet(Path(config.shards), config.model.meta)
        resources.callback(self.shards.close)
        self._train_rows = self._rows_to_train_on()
        self._fold_rows = self.shards.fold_rows(config.fold)
        self.partition = self._partition(self._train_rows)
        self._check_batch()
        self.facts = {
            "size": self.shards.size,
            "meta_kind": config.model.meta,
            "meta_features": list(FEATURES[config.model.meta]),
            **digests(self.shards.manifest.labels_sha256, config.model.meta),
        }
        now = {**asdict(config), **self.facts}
        saved = ranks.from_first(lambda: continued(self.folder, now)) if config.resume == "auto" else None
        self.finished = bool(saved and saved["finished"])
        self.epoch: int = saved["epoch"] if saved else 0
        self.step: int = saved["step"] if saved else 0
        self.best: dict[str, Any] = saved["best"] if saved else {"epoch": -1, "score": float("nan")}
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=ranks.device)
        if saved:
            self.loss_sum += saved["loss_sum"] / ranks.world_size
        self.records: Records | None = None
        self.fed = ""  # what bounded the last epoch, for a person
        if saved and ranks.first:
            mend_best(saved, self.folder)
        if self.finished:
            return
        self._balance(self._monitored_rows(), "the held-out rows")
        self.positive_weight = config.optim.positive_weight or self._balance(self._train_rows, "the training rows")
        if config.autotune:
            tune(config, ranks)
        self._finding, remarks = chosen_finding(config, ranks, self.shards.size, self.partition.local_batch_size)
        self._build_model(saved)
        remarks += self._build_step()
        self._open_streams(resources)
        self._open_records(resources, remarks + self.loader.remarks)

    # ---- the run's own steps, in the order in which train.py takes them ----

    def train_epoch_batches(self) -> Iterator[Batch]:
        """The batches of this epoch that are still to come; the stream behind it works on the next epoch already."""
        for _ in range(self.step, self.partition.steps):
            yield next(self._train_stream)

    def begin_step(self) -> None:
        """Learning rate and dropout of this step, both functions of where it stands."""
        set_learning_rate(self.optimizer, self.learning_rate_at(self.step))
        words = np.random.SeedSequence([self.config.seed, self.epoch, self.step, self.ranks.rank])
        torch.manual_seed(int(words.generate_state(1, np.uint64)[0]))

    def apply_gradients(self) -> None:
        """Clip, take the optimiser's step, and let the moving average follow."""
        if self._scaler is not None:
            self._scaler.unscale_(self.optimizer)
        if self.config.optim.clip_grad:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.optim.clip_grad)
        if self._scaler is not None:
            self._scaler.step(self.optimizer)
            self._scaler.update()
        else:
            self.optimizer.step()
        if self.average is not None:
            self.average.update(self.epoch * self.partition.steps + self.step)
        self.step += 1

    def end_epoch(self, validation: Predictions, metrics: dict[str, float], *, finished: bool) -> None:
        """Move the cursor to the next epoch and save; where this epoch was the best one, save its model too."""
        epoch, self.finished = self.epoch, finished
        if self.records is not None:
            self.records.epoch(epoch, metrics)
        self.epoch, self.step = epoch + 1, 0
        self.loss_sum.zero_()
        # last.pt first: it alone decides which epoch was the best, and best.pt can be made from it.
        state = self.save(validation)
        if self.best["epoch"] == epoch and state:
            save_best(state, self.folder)

    @property
    def best_words(self) -> str:
        """The best figure so far, for a person."""
        return f"best {self.config.monitor} {self.best['score']:.4f} in epoch {self.best['epoch'] + 1}"

    def learning_rate_at(self, step: int) -> float:
        """That of step `step` (from 0) of this epoch."""
        steps = self.partition.steps
        return learning_rate(
            self.config.optim, self.epoch * steps + step, steps_per_epoch=steps, epochs=self.config.epochs
        )

    @property
    def speed_facts(self) -> dict[str, Any]:
        """How the step is run and where its batches are made, for records."""
        return {"channels_last": self.model.channels_last, **self._as_run, "placement": self.loader.placement}

    @property
    def judged_model(self) -> nn.Module:
        """The network that is evaluated and kept: the moving average where there is one."""
        return self.model if self.average is None else self.average.model

    def fold_batches(self) -> Iterator[Batch]:
        """The held-out fold, as it is; every rank gets equally many batches."""
        requests = eval_requests(self._fold_rows, self._partition(self._fold_rows))
        return batches(self.shards, self.config.model.meta, self._eval_renderer, requests, self.ranks.device)

    def save(self, validation: Predictions | None = None) -> dict[str, Any]:
        """Write last.pt; every rank takes part, the first one writes, and gets what it wrote.

        Raises UserError, and leaves the file as it is, where the weights are no longer finite.
        """
        loss_sum = float(self.ranks.sum(self.loss_sum).item())
        self.require_finite()
        if not self.ranks.first:
            return {}
        state = {
            "config": asdict(self.config),
            "facts": self.facts,
            "epoch": self.epoch,
            "step": self.step,
            "finished": self.finished,
            "best": self.best,
            "loss_sum": loss_sum,
            "model": self.model.state_dict(),
            "average": self.average.model.state_dict() if self.average is not None else None,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self._scaler.state_dict() if self._scaler is not None else None,
        }
        if validation is not None:
            state["validation"] = torch.from_numpy(validation.probability)
            state["validation_index"] = torch.from_numpy(validation.index)
        save_checkpoint(state, self.folder / LAST)
        return state

    def require_finite(self) -> None:
        """Raise UserError where a weight or a running statistic is not finite; waits for the device."""
        weights = [value for value in self.model.state_dict().values() if value.is_floating_point()]
        if not bool(torch.stack([value.isfinite().all() for value in weights]).all()):
            raise UserError(
                f"the weights are no longer finite after step {self.step} of epoch {self.epoch + 1}: {self.folder} is "
                f"left as it was saved last; start anew with a lower --optim.lr (now {self.config.optim.lr}) or with "
                "--optim.clip_grad 1"
            )

    def say(self, line: str) -> None:
        """Print a line, once over all ranks."""
        if self.records is not None:
            self.records.say(line)

    # ---- how it is built ----

    def _rows_to_train_on(self) -> Indices:
        rows = self.shards.train_rows(self.config.fold)
        if self.config.train_sources != "all":
            rows = rows[self.shards.source[rows] == int(self.config.train_sources)]
        return rows

    def _monitored_rows(self) -> Indices:
        """The held-out rows whose figure chooses the best epoch."""
        year = self.config.monitor.removeprefix("auc_")
        rows = self._fold_rows
        return rows[self.shards.source[rows] == int(year)] if year.isdigit() else rows

    def _partition(self, rows: Indices) -> Partition:
        return Partition(
            samples=len(rows),
            batch_size=self.config.batch_size,
            rank=self.ranks.rank,
            world_size=self.ranks.world_size,
        )

    def _check_batch(self) -> None:
        config, local = self.config, self.partition.local_batch_size
        if local < 2 * config.accumulate:
            raise UserError(
                f"batch_size={config.batch_size} leaves a rank {local} samples in {config.accumulate} part(s), fewer "
                "than 2 in each: give a larger --batch-size or a smaller --accumulate"
            )
        if local % config.accumulate:
            raise UserError(
                f"accumulate={config.accumulate} cannot cut a rank's {local} samples into equal parts: give a divisor"
            )
        if config.sync_batchnorm and self.ranks.device.type != "cuda":
            raise UserError("sync_batchnorm=True needs GPUs: torch has it for CUDA only; leave it out")

    def _balance(self, rows: Indices, what: str) -> float:
        """Negatives a positive among `rows`. Raises UserError where one of the classes is missing."""
        positives = int((self.shards.target[rows] == 1).sum())
        negatives = len(rows) - positives
        if not positives or not negatives:
            raise UserError(
                f"{what} of fold {self.config.fold} hold {positives} melanomas and {negatives} others: loss and AUC "
                "need both, so choose another fold or make the shard set with more images or fewer folds"
            )
        return negatives / positives

    def _build_model(self, saved: dict[str, Any] | None) -> None:
        config, device = self.config, self.ranks.device
        torch.manual_seed(config.seed)
        self.model, self.objective = build_network(
            config.backbone,
            config.model,
            config.optim,
            config.target,
            size=self.shards.size,
            weights="none" if saved else config.weights,
            device=device,
            channels_last=self._finding.channels_last,
            positive_weight=self.positive_weight,
        )
        if config.sync_batchnorm and self.ranks.world_size > 1:
            self.model.share_batch_statistics()
        dtype = chosen_dtype(config.precision, device)
        self.autocast = autocast_of(dtype, device)
        # bf16 has the range of float32; fp16's gradients would vanish without scaling.
        self._scaler = torch.amp.GradScaler(device.type) if dtype == torch.float16 else None
        self.average = None
        if config.optim.ema:
            self.average = MovingAverage(self.model, copy.deepcopy(self.model), config.optim.ema)
        self.optimizer = create_optimizer(self.model, config.optim)
        if saved:
            self.model.load_state_dict(saved["model"])
            load_optimizer(self.optimizer, saved["optimizer"])
            if self.average is not None:
                self.average.model.load_state_dict(saved["average"])
            if self._scaler is not None and saved["scaler"]:
                self._scaler.load_state_dict(saved["scaler"])

    def _build_step(self) -> list[str]:
        """Make `gradients` (batch -> loss), compiled and captured as found best; returns what a person should know."""
        local = self.partition.local_batch_size
        step = Step(
            network=self.model,
            objective=self.objective,
            autocast=self.autocast,
            samples=local,
            parts=self.config.accumulate,
            scaler=self._scaler,
        )
        example = blank_batch(local, self.shards.size, self.shards.meta.shape[1], self.ranks.device)
        found = self._finding
        ready = prepared_step(
            step, self.model, example, self.ranks, compiling=found.compile, capturing=found.cuda_graph
        )
        self.gradients = ready.gradients
        self._as_run = {"compile": ready.compiled, "cuda_graph": ready.captured}
        return ready.remarks

    def _open_streams(self, resources: ExitStack) -> None:
        config, device = self.config, self.ranks.device
        local = self.partition.local_batch_size
        rows = np.concatenate([self._train_rows, self._fold_rows])
        self.loader = resources.enter_context(
            open_loader(
                self._finding.loader,
                self.shards,
                rows,
                device,
                threads=self.ranks.threads,
                copies=self.ranks.local_world_size,
            )
        )
        requests = train_requests(
            self._train_rows,
            self.partition,
            config.augment,
            seed=config.seed,
            size=self.shards.size,
            epochs=range(self.epoch, config.epochs),
            first_step=self.step,
        )
        blank = BlankRenderer(local, self.shards.size, device) if config.model.inputs == "meta" else None
        self._eval_renderer = blank or self.loader.renderer(local)
        self._train_stream = batches(
            self.shards, config.model.meta, blank or self.loader.renderer(local), requests, device
        )

    def _open_records(self, resources: ExitStack, remarks: list[str]) -> None:
        if not self.ranks.first:
            return
        facts = {**self.facts, **self.speed_facts}
        if not (self.epoch or self.step):
            for name in (LAST, BEST, OOF, CURVES):  # of a run that is started anew
                (self.folder / name).unlink(missing_ok=True)
        self.records = resources.enter_context(Records(self.folder, self.config, facts))
        self.records.forget(self.epoch, self.step)
        for remark in remarks:
            self.records.say(remark)
        if self.shards.manifest.unsafe:
            self.records.say(f"warning: {self.config.shards} was {self.shards.manifest.unsafe}")
        if self.epoch or self.step:
            self.records.say(f"{self.folder / LAST}: going on after step {self.step} of epoch {self.epoch + 1}")


@contextmanager
def open_session(config: TrainConfig, ranks: Ranks) -> Iterator[Session]:
    """Build a session; threads, pipelines and files are closed at the end, also after an error."""
    with ExitStack() as resources:
        yield Session(config, ranks, resources)
