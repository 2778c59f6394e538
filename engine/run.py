"""A run: one member in training, opened from its config and last.pt, and closed again.

Each part has one owner: engine/state.py the progress, engine/data.py the batches, engine/trainer.py the weights and
the step, engine/records.py the files.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from configs.errors import UserError
from configs.files import clear_folder, only_writer
from configs.schema import TrainConfig
from engine.checkpoint import (
    BEST,
    LAST,
    checkpoint_of,
    lost_best,
    mend_best,
    not_finite,
    run_facts,
    save_best,
    save_checkpoint,
    saved_run,
)
from engine.data import Data, open_data, open_samples
from engine.distributed import Ranks
from engine.evaluate import Predictions, predict
from engine.interrupt import Stopped, StopRequest
from engine.progress import EpochProgress
from engine.records import CURVES, METRICS, SETTINGS, Records, member_folder
from engine.saver import Content, Saver
from engine.state import RunState
from engine.trainer import Trainer, build_trainer
from engine.tune import chosen_way
from engine.validate import OOF, validation_figures, write_oof
from engine.writer import Writer
from loaders.shards import ShardSet
from models.backbones import SHORT_NAMES, timm_name
from prep.manifest import read_manifest

_LOCK = "train.lock"


@dataclass(frozen=True, kw_only=True)
class Run:
    """One member in training on this rank; only the first rank writes, and has records."""

    config: TrainConfig
    ranks: Ranks
    folder: Path
    facts: dict[str, Any]
    state: RunState
    data: Data
    trainer: Trainer
    stop: StopRequest
    saver: Saver
    records: Records | None
    writer: Writer | None

    def epoch_progress(self) -> EpochProgress:
        """The progress of the epoch that the state is in."""
        return EpochProgress(self.config, self.ranks, self.state, self.data, self.records)

    def validate(self) -> tuple[Predictions | None, dict[str, float]]:
        """Predict the held-out fold and compute its metrics; (None, {}) if no fold is held out.

        Raises Stopped, and UserError if predictions are NaN.
        """
        if self.config.fold is None:
            return None, {}
        trainer, ranks = self.trainer, self.ranks
        for model in {id(one): one for one in (trainer.model, trainer.judged_model)}.values():
            ranks.share_buffers(model)
        batches, known = self.stop.over(self.data.fold_batches()), len(trainer.remarks)
        predictions = predict(trainer.judge, trainer.objective, batches, ranks, autocast=trainer.autocast)
        for remark in trainer.remarks[known:]:
            self.say(remark)
        wrong = np.isnan(predictions.probability).sum()
        if wrong:
            if not self.trainer.is_finite():
                raise self._not_finite()
            raise UserError(
                f"{wrong} of {len(predictions.probability)} predictions of epoch {self.state.epoch + 1} are NaN; "
                f"earlier checkpoints in {self.folder} are kept: continue with --precision fp32, or start from scratch "
                f"(--resume never) with a lower --optim.lr (now {self.config.optim.lr})"
            )
        return predictions, validation_figures(predictions, self.data.samples.shards)

    def end_epoch(self, predictions: Predictions | None, metrics: dict[str, float]) -> bool:
        """Record and save the epoch, and best.pt if it is the best one so far; returns whether it is.

        The first rank's metric decides on every rank, so that all of them stop after the same epoch. Without
        predictions no epoch is judged, and all epochs are trained.
        """
        config, state = self.config, self.state
        epoch, best, stale = state.epoch, False, False
        if predictions is not None:
            score = self.ranks.share_from_first(metrics[config.monitor])
            best = state.judge(score, lower_is_better=config.monitor == "loss")
            # Epochs on smaller images are to be overtaken by those on the full ones, so they do not end the training.
            waited = epoch - max(state.best_epoch, config.progressive.epochs - 1)
            stale = 0 < config.patience <= waited
        if self.records is not None:
            self.records.epoch(epoch, metrics)
        state.end_epoch(finished=stale or epoch + 1 == config.epochs)
        self.save(predictions, best=best)
        return best

    def save_if_due(self, progress: EpochProgress) -> None:
        """Save within an epoch, after `save_every` steps or `save_minutes`; every rank must call it after each step.

        Raises UserError if the save before could not be written, as soon as that is known.
        """
        self.saver.check()
        step, steps = self.state.step, self.data.samples.partition.steps
        if step < steps and (step % self.config.save_every == 0 or self.stop.time_to_save):
            self.save(settled=progress.settling())

    def save(
        self,
        predictions: Predictions | None = None,
        *,
        best: bool = False,
        settled: Callable[[], bool] = lambda: True,
    ) -> None:
        """Write last.pt, and best.pt if this epoch is the best, while training goes on; every rank must call it, the
        first one writes. With fp16 on a GPU it waits for the steps launched so far: torch reads the loss scale.

        settled: called by the thread that writes, before it does: waits for what must be on disk first, and returns
        whether the state may be saved. A later call, or the end of the run, raises UserError if the weights are not
        finite, a file cannot be written, or another process trains the member by now; the files that were there before
        are kept.
        """
        loss_sum = self.ranks.sum(self.state.loss_sum)
        self.stop.saved()
        if self.writer is None:
            return
        check, refusal = self.writer.check, self._not_finite()

        def write(content: Content) -> None:
            if not settled():
                return
            if not_finite(content):
                raise refusal
            content["loss_sum"] = float(content["loss_sum"])
            # last.pt first: it records which epoch was the best, and best.pt can be rebuilt from it.
            save_checkpoint(content, self.folder / LAST, check)
            if best:
                save_best(content, self.folder, check)

        content = checkpoint_of(self.config, self.facts, self.state, loss_sum, self.trainer, predictions)
        self.saver.save(content, write)

    def write_results(self) -> None:
        """Wait for the last save; then write oof.parquet, from last.pt and best.pt, if a fold is held out.

        Raises UserError if another process trains the member by now.
        """
        self.saver.wait()
        if self.writer is not None:
            self.writer.check()
        if self.ranks.first and self.config.fold is not None:
            remark = write_oof(self.folder, self.data.samples.shards)
            if remark:
                self.say(remark)

    def say(self, line: str) -> None:
        """Print a line, on the first rank only."""
        if self.records is not None:
            self.records.say(line)

    def _not_finite(self) -> UserError:
        return UserError(
            f"the weights are NaN or infinite after step {self.state.step} of epoch {self.state.epoch + 1}; "
            f"earlier checkpoints in {self.folder} are kept: start from scratch (--resume never) with a lower "
            f"--optim.lr (now {self.config.optim.lr}) or --optim.clip_grad 1"
        )


def is_finished(config: TrainConfig, ranks: Ranks) -> bool:
    """Whether the training of this member is finished; if so, says so and writes its results if they are missing.

    Raises UserError if last.pt was made with other settings.
    """
    best = ranks.from_first(lambda: finished_words(config))
    if best is not None and ranks.first:
        print(f"{member_folder(config)} is finished ({best}): nothing to do")
    return best is not None


def finished_words(config: TrainConfig) -> str | None:
    """What a finished member reached, whose results are written if they are missing; None if it is not finished.

    Raises UserError if last.pt was made with other settings.
    """
    folder = member_folder(config)
    saved = saved_run(folder, config, run_facts(config, read_manifest(Path(config.shards))))
    if saved is None or not saved["finished"]:
        return None
    mend_best(saved, folder)
    if config.fold is not None and not (folder / OOF).is_file():
        with only_trainer(folder), closing(ShardSet(Path(config.shards))) as shards:
            remark = write_oof(folder, shards)
        if remark:
            print(remark)
    return RunState.at(saved, torch.device("cpu"), 1).best_words(config.monitor)


@contextmanager
def only_trainer(folder: Path) -> Iterator[str | None]:
    """Write in a member's folder as the only process that does, and remove what killed ones left half written.

    Gives a warning for the user, or None, and raises UserError, as `only_writer` does.
    """
    with only_writer(folder / _LOCK) as warning:
        clear_folder(folder, alone=warning is None)
        yield warning


def _require_files(folder: Path) -> None:
    """Raise UserError if something else than a file has the name of one: to write to a pipe would wait for ever."""
    for path in sorted(folder.iterdir()):
        if path.name in (LAST, BEST, OOF, CURVES, SETTINGS, METRICS) and not path.is_file():
            raise UserError(f"{path} is not a regular file: remove it, then run the same command again")


@contextmanager
def open_run(config: TrainConfig, ranks: Ranks) -> Iterator[Run]:
    """Open the run of a member that is not finished, at the last saved step if there is one.

    At the end, even after an error, the save under way is written, and threads, pipelines and files are closed. If the
    user or the machine asked the run to stop (Stopped), it is saved first. Raises UserError if another process trains
    the member.
    """
    folder = member_folder(config)
    with ExitStack() as resources:
        samples = resources.enter_context(open_samples(config, ranks))
        known_as = timm_name(config.backbone)  # an unknown name leaves no folder behind
        remarks, writer = [], None
        if ranks.first:
            remarks = [resources.enter_context(only_trainer(folder))]
            _require_files(folder)
            writer = Writer(folder)
        facts = run_facts(config, samples.shards.manifest)
        saved = ranks.from_first(lambda: saved_run(folder, config, facts))
        if saved and ranks.first:
            mend_best(saved, folder)
        state = RunState.at(saved, ranks.device, ranks.world_size)
        partition = samples.partition
        to_do = (config.epochs - state.epoch) * partition.steps - state.step
        way, found = chosen_way(config, ranks, samples.shards.size, partition.local_batch_size, steps=to_do)
        renamed = known_as != config.backbone and config.backbone not in SHORT_NAMES
        remarks += [f"backbone {config.backbone} is {known_as} in this version of timm" if renamed else None, *found]
        remarks.append(lost_best(saved, folder) if saved and ranks.first else None)
        trainer = build_trainer(
            config,
            ranks,
            size=samples.shards.size,
            partition=partition,
            positive_weight=samples.positive_weight,
            speed=way.speed,
            saved=saved,
        )
        del saved  # the trainer has loaded its tensors
        # The loader last: a cache on the GPU uses the memory that the model leaves free.
        try:
            data = resources.enter_context(open_data(config, ranks, samples, way.loader, state))
        except UserError as error:
            if way.loader is config.loader:
                raise
            remarks.append(f"warning: continuing without the loader's settings that --autotune found: {error}")
            data = resources.enter_context(open_data(config, ranks, samples, config.loader, state))
        records = None
        if writer is not None:
            writer.check()
            if not state.begun:
                for name in (LAST, BEST, OOF, CURVES):  # of an earlier run, when starting from scratch
                    (folder / name).unlink(missing_ok=True)
            speed = {**asdict(trainer.speed), "placement": data.loader.placement}
            records = resources.enter_context(Records(folder, config, {**facts, **speed}, writer.check))
            records.forget(state.epoch, state.step)
        run = Run(
            config=config,
            ranks=ranks,
            folder=folder,
            facts=facts,
            state=state,
            data=data,
            trainer=trainer,
            stop=resources.enter_context(StopRequest(ranks, config.save_minutes)),
            saver=resources.enter_context(Saver(ranks.device)),
            records=records,
            writer=writer,
        )
        for remark in filter(None, [*remarks, *trainer.remarks, *data.loader.remarks]):
            run.say(remark)
        if samples.shards.manifest.unsafe:
            run.say(f"warning: {config.shards} was {samples.shards.manifest.unsafe}")
        if state.begun:
            run.say(f"{folder / LAST}: continuing after step {state.step} of epoch {state.epoch + 1}")
        try:
            yield run
        except Stopped:
            if state.finished:
                run.say(f"stopped by {run.stop.name}: {folder} is finished")
                raise
            run.save()
            run.saver.wait()
            run.say(
                f"stopped by {run.stop.name} after step {state.step} of {partition.steps} in epoch "
                f"{state.epoch + 1}: {folder} is saved; run the same command again to continue"
            )
            raise
