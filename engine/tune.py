"""The fastest way to run the step on this machine: measured by --autotune, remembered, looked up by later runs."""

import gc
import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import asdict, dataclass, fields, replace
from itertools import product, repeat
from pathlib import Path
from statistics import median
from typing import Any, get_args

import torch
from rich.table import Table

from configs.console import plain_console
from configs.errors import UserError
from configs.files import written_whole
from configs.schema import LoaderConfig, Placement, TrainConfig
from engine.default_speed import default_speed
from engine.distributed import Ranks
from engine.prepare_step import Speed, blank_batch
from engine.trainer import Trainer, build_trainer
from loaders.batch import Batch
from loaders.loader import Loader
from loaders.order import Partition
from loaders.placement import available_placements
from loaders.shards import ShardSet
from prep.metadata import FEATURES

_STEP_SECONDS = 4.0  # per way to run the step, compilation not included
_LOADER_SECONDS = 6.0  # per placement
_WARM_UP = 3
_MIN_SPEEDUP = 1.03  # a more complicated way must be faster by this factor
_RESIDENT = "a resident batch"


@dataclass(frozen=True, kw_only=True)
class Way:
    """How a run's step is run and fed."""

    speed: Speed
    loader: LoaderConfig


def chosen_way(
    config: TrainConfig, ranks: Ranks, size: int, local_batch_size: int, *, steps: int
) -> tuple[Way, list[str]]:
    """What the settings say; where they say auto, what --autotune found before for this machine, backbone and size;
    else what the rule says for the `steps` still to do."""
    known, path = ranks.from_first(lambda: remembered(config, ranks, size, local_batch_size))
    asked, loader = config.speed, config.loader
    layouts: dict[str, bool | None] = {"channels_last": True, "contiguous": False, "auto": known.get("channels_last")}
    switches = {"on": True, "off": False}
    compiling, capturing = default_speed(steps, on_gpu=ranks.device.type == "cuda", world_size=ranks.world_size)
    if loader.placement == "auto" and loader.cache == "none" and known:
        loader = replace(loader, placement=known["placement"])
    speed = Speed(
        channels_last=layouts[asked.memory_format],
        compile=not config.sync_batchnorm and switches.get(asked.compile, known.get("compile", compiling)),
        cuda_graph=switches.get(asked.cuda_graph, known.get("cuda_graph", capturing)),
    )
    remark = f"using the --autotune result in {path}: {', '.join(_words(speed))}"
    return Way(speed=speed, loader=loader), [remark] if known else []


def remembered(
    config: TrainConfig, ranks: Ranks, size: int, local_batch_size: int
) -> tuple[dict[str, Any], Path | None]:
    """What was found for this case (empty if nothing was), and the file that holds it; None without a home."""
    case = _case(config, ranks, size, local_batch_size)
    digest = hashlib.sha256(json.dumps(case, sort_keys=True).encode()).hexdigest()[:16]
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        path = cache / "melanoma" / f"tuned-{digest}.json"
        content = json.loads(path.read_bytes()) if path.is_file() else {}
    except RuntimeError:  # no HOME, and a user that the system does not know
        return {}, None
    except (OSError, ValueError):  # it is measured again
        return {}, path
    found = content.get("found") if isinstance(content, dict) and content.get("case") == case else None
    return (found, path) if isinstance(found, dict) and _is_way(found) else ({}, path)


def _is_way(found: dict[str, Any]) -> bool:
    """Whether a remembered way is one of this version."""
    switches = all(isinstance(found.get(field.name), bool) for field in fields(Speed))
    return switches and found.get("placement") in get_args(Placement)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One way to run the step; images_per_s is 0 if it failed, and `note` says why."""

    speed: Speed
    placement: str = _RESIDENT  # one batch that is already on the device
    images_per_s: float = 0.0
    note: str = ""


def tune(config: TrainConfig, ranks: Ranks) -> None:
    """Measure memory formats x compilation (x CUDA graph) on a resident batch, then placements end to end with the
    fastest of them; print the table, and remember the fastest for `chosen_way`.

    Several ranks measure at the same time, each by itself; the first rank's result is used by all.
    """
    with closing(_Bench(config, ranks)) as bench:
        layouts = {"auto": (True, False), "channels_last": (True,), "contiguous": (False,)}[config.speed.memory_format]
        compiling = {"auto": (False, True), "on": (True,), "off": (False,)}[config.speed.compile]
        graphs = {"auto": (False, True), "on": (True,), "off": (False,)}[config.speed.cuda_graph]
        graphs = graphs if ranks.device.type == "cuda" and ranks.world_size == 1 else (False,)
        ways = product(layouts, compiling, graphs)
        steps = [bench.step(Speed(channels_last=way[0], compile=way[1], cuda_graph=way[2])) for way in ways]
        fastest = steps[int(ranks.share_from_first(_fastest(steps)))]
        ends = [bench.end_to_end(fastest, placement) for placement in bench.placements()]
        chosen = ends[int(ranks.share_from_first(_fastest(ends)))]
    if ranks.first:
        _print(steps, ends, chosen, bench.title)
        _remember(config, ranks, bench, chosen)


class _Bench:
    """What all trials share: the data, and a resident batch of random pixels."""

    def __init__(self, config: TrainConfig, ranks: Ranks) -> None:
        self._config, self._ranks = replace(config, weights="none"), replace(ranks, world_size=1, rank=0)
        self._shards = ShardSet(Path(config.shards))
        self._rows = self._shards.train_rows(config.fold)
        self.size = self._shards.size
        self.local_batch_size = config.batch_size // ranks.world_size
        self.title = f"{config.backbone}, {self.size} px, {self.local_batch_size} per rank, {_device_name(ranks)}"
        self._partition = Partition(samples=len(self._rows), batch_size=self.local_batch_size)
        blank = blank_batch(self.local_batch_size, self.size, len(FEATURES[config.model.meta]), ranks.device)
        self._batch = replace(blank, image=torch.randint_like(blank.image, 256))

    def step(self, speed: Speed) -> Trial:
        """Time the step alone."""

        def run() -> tuple[float, str]:
            trainer = self._trainer(speed)
            if trainer.remarks:
                return 0.0, trainer.remarks[0]
            return self._timed(trainer, repeat(self._batch), _STEP_SECONDS), ""

        images_per_s, note = _attempted(run)
        return Trial(speed=speed, images_per_s=images_per_s, note=note)

    def placements(self) -> list[Placement]:
        """The placements that this machine has and the settings allow."""
        asked = self._config.loader.placement
        return available_placements(self._ranks.device) if asked == "auto" else [asked]

    def close(self) -> None:
        """Close the shard set."""
        self._shards.close()

    def end_to_end(self, way: Trial, placement: Placement) -> Trial:
        """Time the step on the batches of a loader with `placement`."""
        speed, note = _attempted(lambda: (self._end_to_end(way, placement), ""))
        return replace(way, placement=placement, images_per_s=speed, note=note)

    def _end_to_end(self, way: Trial, placement: Placement) -> float:
        trainer, config, ranks = self._trainer(way.speed), self._config, self._ranks
        loader_config = replace(config.loader, placement=placement, cache="none")
        with Loader(loader_config, self._shards, self._rows, ranks.device, threads=ranks.threads) as loader:
            stream = loader.train_batches(
                self._rows, self._partition, config.augment, meta=config.model.meta, seed=0, epochs=range(10**6)
            )
            return self._timed(trainer, stream, _LOADER_SECONDS)

    def _trainer(self, speed: Speed) -> Trainer:
        return build_trainer(
            self._config,
            self._ranks,
            size=self.size,
            partition=self._partition,
            positive_weight=1.0,
            speed=speed,
        )

    def _timed(self, trainer: Trainer, stream: Iterable[Batch], seconds: float) -> float:
        """Images/s: the median over steps, on a GPU over groups of ten, waiting for the device after each."""
        group = 10 if self._ranks.device.type == "cuda" else 1
        iterator = iter(stream)
        rates: list[float] = []
        begin = time.perf_counter()
        for _ in range(_WARM_UP):
            trainer.step(next(iterator))
        while len(rates) < 3 or time.perf_counter() - begin < seconds:
            _wait(self._ranks.device)
            start = time.perf_counter()
            for _ in range(group):
                trainer.step(next(iterator))
            _wait(self._ranks.device)
            rates.append(group * self.local_batch_size / (time.perf_counter() - start))
        return median(rates)


def _attempted(run: Callable[[], tuple[float, str]]) -> tuple[float, str]:
    """What `run` returns; running out of memory is noted, not fatal, and the memory is freed."""
    try:
        return run()
    except torch.OutOfMemoryError:
        return 0.0, "out of memory"
    finally:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _fastest(trials: list[Trial]) -> int:
    """Index of the fastest trial; a later one, which is more complicated, must be faster by a margin."""
    if not any(trial.images_per_s for trial in trials):
        raise UserError(f"--autotune: every way to run the step failed ({trials[0].note}): lower --batch-size")
    best = 0
    for number, trial in enumerate(trials):
        if trial.images_per_s > _MIN_SPEEDUP * trials[best].images_per_s:
            best = number
    return best


def _remember(config: TrainConfig, ranks: Ranks, bench: _Bench, chosen: Trial) -> None:
    _, path = remembered(config, ranks, bench.size, bench.local_batch_size)
    if path is None:
        print("--autotune: this user has no home folder (HOME), so that the result is not remembered")
        return
    found = {**asdict(chosen.speed), "placement": chosen.placement}
    case = _case(config, ranks, bench.size, bench.local_batch_size)
    content = {"case": case, "found": found, "images_per_s": chosen.images_per_s}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as file:
            file.write(json.dumps(content).encode() + b"\n")
    except OSError as error:
        print(f"--autotune: the result is not remembered, {path} cannot be written: {error.strerror}")


def _case(config: TrainConfig, ranks: Ranks, size: int, local_batch_size: int) -> dict[str, Any]:
    """The settings and the machine that a result is valid for."""
    return {
        "device": _device_name(ranks),
        "torch": torch.__version__,
        "world_size": ranks.world_size,
        "backbone": config.backbone,
        "inputs": config.model.inputs,
        "size": size,
        "batch": local_batch_size,
        "accumulate": config.accumulate,
        "precision": config.precision,
        "augment": asdict(config.augment),
    }


def _device_name(ranks: Ranks) -> str:
    cores = f"{ranks.threads} cores"
    if ranks.device.type == "cuda":
        return f"{torch.cuda.get_device_name(ranks.device)}, {cores}"
    return f"{platform.node()}, {platform.machine()} CPU, {cores}"


def _print(steps: list[Trial], ends: list[Trial], chosen: Trial, title: str) -> None:
    table = Table(title=f"--autotune: {title}", title_justify="left")
    for heading in ("memory format", "compilation", "CUDA graph", "data", "images/s"):
        table.add_column(heading, justify="right" if heading == "images/s" else "left")
    for trial in (*steps, *ends):
        speed = f"{trial.images_per_s:,.0f}{' *' if trial is chosen else ''}" if trial.images_per_s else trial.note
        table.add_row(*_words(trial.speed), trial.placement, speed)
    plain_console().print(table)


def _words(speed: Speed) -> list[str]:
    layout = "channels_last" if speed.channels_last else "contiguous"
    return [layout, f"compile {'on' if speed.compile else 'off'}", f"cuda_graph {'on' if speed.cuda_graph else 'off'}"]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
