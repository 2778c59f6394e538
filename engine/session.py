"""Everything a training run consists of, built in the order it depends on each other, and closed again."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel

from configs.errors import UserError
from configs.schema import TrainConfig
from engine.checkpoint import load_checkpoint, save_checkpoint
from engine.distributed import Ranks
from engine.evaluate import Predictions, predict
from engine.optim import create_optimizer, create_schedule
from engine.records import Records, member_folder
from loaders.order import Indices, Partition
from loaders.placement import open_loader
from loaders.shards import ShardSet
from loaders.stream import Batch, batches, eval_requests, train_requests
from models.fusion import FusionModel, build_model
from prep.metadata import FEATURES

LAST, BEST, OOF = "last.pt", "best.pt", "oof.parquet"
# Settings that may differ between a run and its continuation: they change where and how fast, not what.
_FREE = ("shards", "out", "resume", "device", "loader", "precision")


def autocast_of(precision: str, device: torch.device) -> Callable[[], AbstractContextManager[Any]]:
    """A context for the forward pass: bf16 autocast, or none; auto is bf16 on a GPU and fp32 on a CPU."""
    enabled = precision == "bf16" or (precision == "auto" and device.type == "cuda")
    return lambda: torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)


class Session:
    """One member in training: data, model, optimiser and records of this rank."""

    def __init__(self, config: TrainConfig, ranks: Ranks, resources: ExitStack) -> None:
        self.config = config
        self.ranks = ranks
        self.folder = member_folder(config)
        self.shards = ShardSet(Path(config.shards), config.model.meta)
        resources.callback(self.shards.close)
        self._train_rows = self.shards.train_rows(config.fold)
        self._fold_rows = self.shards.fold_rows(config.fold)
        self.partition = self._partition(self._train_rows)
        if self.partition.local_batch_size < 2:
            raise UserError(f"batch_size={config.batch_size} leaves a rank fewer than 2 samples: give a larger one")
        self.facts = {
            "size": self.shards.size,
            "meta_kind": config.model.meta,
            "meta_features": list(FEATURES[config.model.meta]),
            "labels_sha256": self.shards.manifest.labels_sha256,
        }
        saved = self._continued()
        self.finished = bool(saved and saved["finished"])
        self.next_epoch: int = saved["epoch"] + 1 if saved else 0
        self.best: dict[str, Any] = saved["best"] if saved else {"epoch": -1, "auc": float("nan")}
        self.records: Records | None = None
        self.fed = ""  # what bounded the last epoch, for a person
        if self.finished:
            return
        balance = self._balance(self._train_rows, "the training rows")
        self._balance(self._fold_rows, "the held-out rows")
        self.positive_weight = config.optim.positive_weight or balance
        self._build_model(saved)
        self._open_streams(resources)
        if ranks.first:
            facts = {**self.facts, "placement": self.loader.placement}
            self.records = resources.enter_context(Records(self.folder, config, facts))
            self.records.forget(self.next_epoch)
            for remark in self.loader.remarks:
                self.records.say(remark)
            if self.shards.manifest.unsafe:
                self.records.say(f"warning: {config.shards} was {self.shards.manifest.unsafe}")

    def train_epoch_batches(self) -> Iterator[Batch]:
        """The batches of one epoch; the stream behind it is already working on the next one."""
        for _ in range(self.partition.steps):
            yield next(self._train_stream)

    def seed_dropout(self, epoch: int) -> None:
        """Make dropout a function of (seed, epoch, rank), so that a resumed epoch is the same epoch."""
        words = np.random.SeedSequence([self.config.seed, epoch, self.ranks.rank]).generate_state(1, np.uint64)
        torch.manual_seed(int(words[0]))

    def clip_gradients(self) -> None:
        """Clip the norm of the gradients where the config says so."""
        if self.config.optim.clip_grad:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.optim.clip_grad)

    def predict_fold(self) -> Predictions:
        """Probabilities of the held-out fold, one view, on every rank."""
        self.ranks.share_buffers(self.model)
        requests = eval_requests(self._fold_rows, self._partition(self._fold_rows))
        stream = batches(self.shards, self.config.model.meta, self._eval_renderer, requests, self.ranks.device)
        return predict(self.model, stream, self.ranks, autocast=self.autocast)

    def save(self, name: str, epoch: int, validation: Predictions, *, finished: bool = False) -> None:
        """Write last.pt or best.pt; only the first rank does."""
        if not self.ranks.first:
            return
        state = {
            "config": asdict(self.config),
            "facts": self.facts,
            "epoch": epoch,
            "finished": finished,
            "best": self.best,
            "model": self.model.state_dict(),
            "validation": torch.from_numpy(validation.probability),
            "validation_index": torch.from_numpy(validation.index),
        }
        if name == LAST:
            state |= {"optimizer": self.optimizer.state_dict(), "schedule": self.schedule.state_dict()}
        save_checkpoint(state, self.folder / name)

    def say(self, line: str) -> None:
        """Print a line, once over all ranks."""
        if self.records is not None:
            self.records.say(line)

    def _partition(self, rows: Indices) -> Partition:
        return Partition(
            samples=len(rows),
            batch_size=self.config.batch_size,
            rank=self.ranks.rank,
            world_size=self.ranks.world_size,
        )

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
        weights = "none" if saved else config.weights
        self.model: FusionModel = build_model(
            config.backbone,
            config.model,
            size=self.shards.size,
            meta_features=self.shards.meta.shape[1],
            weights=weights,
        )
        layout = torch.channels_last if self.model.channels_last else torch.contiguous_format
        self.model.to(device=device, memory_format=layout)  # type: ignore[call-overload]
        self.autocast = autocast_of(config.precision, device)
        self.network: torch.nn.Module = self.model
        if self.ranks.world_size > 1:
            # Running statistics are shared before each evaluation, not in each step; the option's name has changed.
            known = inspect.signature(DistributedDataParallel).parameters
            option = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
            options: dict[str, Any] = {option: False}
            devices = [device.index] if device.type == "cuda" else None
            self.network = DistributedDataParallel(self.model, device_ids=devices, **options)
        self.optimizer = create_optimizer(self.model, config.optim)
        self.schedule = create_schedule(
            self.optimizer, config.optim, steps_per_epoch=self.partition.steps, epochs=config.epochs
        )
        if saved:
            self.model.load_state_dict(saved["model"])
            self.optimizer.load_state_dict(saved["optimizer"])
            self.schedule.load_state_dict(saved["schedule"])

    def _open_streams(self, resources: ExitStack) -> None:
        config, device = self.config, self.ranks.device
        local = self.partition.local_batch_size

        rows = np.concatenate([self._train_rows, self._fold_rows])
        self.loader = resources.enter_context(
            open_loader(
                config.loader, self.shards, rows, device, threads=self.ranks.threads, copies=self.ranks.local_world_size
            )
        )
        requests = train_requests(
            self._train_rows,
            self.partition,
            config.augment,
            seed=config.seed,
            size=self.shards.size,
            epochs=range(self.next_epoch, config.epochs),
        )
        self._eval_renderer = self.loader.renderer(local)
        self._train_stream = batches(self.shards, config.model.meta, self.loader.renderer(local), requests, device)

    def _continued(self) -> dict[str, Any] | None:
        """The state of last.pt where this member was begun before. Raises UserError where it was another one."""
        path = self.folder / LAST
        if not path.is_file() or not self.config.resume:
            return None
        saved = load_checkpoint(path, self.ranks.device)
        then = _flat({**saved["config"], **saved["facts"]})
        for name, value in _flat({**asdict(self.config), **self.facts}).items():
            if name.split(".")[0] not in _FREE and then.get(name) != value:
                raise UserError(
                    f"{path} was made with {name}={then.get(name)!r}, now it is {value!r}: choose another --out to "
                    "keep it, or start anew with --resume false"
                )
        return saved


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    """Nested settings by the names that the command line gives them: optim.lr."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        inner = (
            {f"{name}.{key}": one for key, one in _flat(value).items()} if isinstance(value, dict) else {name: value}
        )
        found |= inner
    return found


@contextmanager
def open_session(config: TrainConfig, ranks: Ranks) -> Iterator[Session]:
    """Build a session; threads, pipelines and files are closed at the end, also after an error."""
    with ExitStack() as resources:
        yield Session(config, ranks, resources)
