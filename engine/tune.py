"""How the step is run best on this machine: measured once by --autotune, remembered, and looked up by later runs."""

import gc
import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from itertools import product, repeat
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from configs.errors import UserError
from configs.schema import LoaderConfig, Placement, TrainConfig
from engine.distributed import Ranks
from engine.network import build_network
from engine.optim import create_optimizer
from engine.step import Step, autocast_of, blank_batch, chosen_dtype, prepared_step
from loaders.dali import require_dali
from loaders.order import Partition
from loaders.placement import open_loader
from loaders.shards import ShardSet
from loaders.stream import Batch, batches, train_requests

_STEP_SECONDS = 4.0  # spent on each way to run the step, after its compilation
_LOADER_SECONDS = 6.0  # spent on each placement
_WARM_UP = 3
_WORTH = 1.03  # what is more trouble must be faster by this much


@dataclass(frozen=True, kw_only=True)
class Finding:
    """How one run's step is run. channels_last None: as is known of the backbone."""

    channels_last: bool | None
    compile: bool
    cuda_graph: bool
    loader: LoaderConfig


def chosen_finding(config: TrainConfig, ranks: Ranks, size: int, local_batch_size: int) -> tuple[Finding, list[str]]:
    """What the settings say; where they say auto, what --autotune once found for this machine, backbone and size."""
    known, path = ranks.from_first(lambda: remembered(config, ranks, size, local_batch_size))
    speed = config.speed
    layouts: dict[str, bool | None] = {"channels_last": True, "contiguous": False, "auto": known.get("channels_last")}
    loader = config.loader
    if loader.placement == "auto" and loader.cache == "none" and "placement" in known:
        loader = replace(loader, placement=known["placement"])
    finding = Finding(
        channels_last=layouts[speed.memory_format],
        compile=not config.sync_batchnorm
        and (speed.compile == "on" or (speed.compile == "auto" and known.get("compile", False))),
        cuda_graph=speed.cuda_graph == "on" or (speed.cuda_graph == "auto" and known.get("cuda_graph", False)),
        loader=loader,
    )
    if known:
        words = f"{'channels_last' if finding.channels_last else 'contiguous'}, compile {_on(finding.compile)}"
        return finding, [f"as --autotune found ({path}): {words}, cuda_graph {_on(finding.cuda_graph)}"]
    return finding, []


def remembered(config: TrainConfig, ranks: Ranks, size: int, local_batch_size: int) -> tuple[dict[str, Any], Path]:
    """What was found for this case (empty where nothing was), and the file it lies in."""
    case = _case(config, ranks, size, local_batch_size)
    digest = hashlib.sha256(json.dumps(case, sort_keys=True).encode()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = cache / "melanoma" / f"tuned-{digest}.json"
    if not path.is_file():
        return {}, path
    try:
        found: dict[str, Any] = json.loads(path.read_text())["found"]
    except (ValueError, KeyError):
        return {}, path
    return found, path


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One way to run the step, and its speed; images_per_s is 0 where it could not be run, and `note` says why."""

    channels_last: bool
    compile: bool
    cuda_graph: bool
    placement: str  # "" for a batch that lies ready
    images_per_s: float
    note: str = ""


def tune(config: TrainConfig, ranks: Ranks) -> None:
    """Measure layouts x compilation (x CUDA graph) on a batch that lies ready, then placements end to end with the
    fastest of them; print the table, and remember the fastest for `chosen_finding`.

    Several ranks measure at the same time, each by itself; what the first one finds holds for all.
    """
    with ExitStack() as resources:
        bench = _Bench(config, ranks, resources)
        layouts = {"auto": (True, False), "channels_last": (True,), "contiguous": (False,)}[config.speed.memory_format]
        compiling = {"auto": (False, True), "on": (True,), "off": (False,)}[config.speed.compile]
        graphs = {"auto": (False, True), "on": (True,), "off": (False,)}[config.speed.cuda_graph]
        graphs = graphs if ranks.device.type == "cuda" and ranks.world_size == 1 else (False,)
        steps = [bench.step(*way) for way in product(layouts, compiling, graphs)]
        fastest = steps[int(ranks.share_from_first(_fastest(steps)))]
        ends = [bench.end_to_end(fastest, placement) for placement in bench.placements()]
        chosen = ends[int(ranks.share_from_first(_fastest(ends)))]
    if ranks.first:
        _print(steps, ends, chosen, bench.title)
        _remember(config, ranks, bench, chosen)


class _Bench:
    """What all trials share: the data, and a batch of random pixels that lies ready."""

    def __init__(self, config: TrainConfig, ranks: Ranks, resources: ExitStack) -> None:
        self._config, self._ranks = config, replace(ranks, world_size=1, rank=0)
        self._shards = ShardSet(Path(config.shards), config.model.meta)
        resources.callback(self._shards.close)
        self._rows = self._shards.train_rows(config.fold)
        self.size = self._shards.size
        self.local_batch_size = config.batch_size // ranks.world_size
        self.title = f"{config.backbone}, {self.size} px, {self.local_batch_size} a rank, {_device_name(ranks)}"
        blank = blank_batch(self.local_batch_size, self.size, self._shards.meta.shape[1], ranks.device)
        self._batch = replace(blank, image=torch.randint_like(blank.image, 256))

    def step(self, channels_last: bool, compiling: bool, capturing: bool) -> Trial:
        """Time the step alone."""
        trial = Trial(
            channels_last=channels_last, compile=compiling, cuda_graph=capturing, placement="", images_per_s=0.0
        )

        def run() -> tuple[float, str]:
            train, remarks = self._trainer(trial)
            if remarks:
                return 0.0, remarks[0]
            return self._timed(train, repeat(self._batch), _STEP_SECONDS), ""

        speed, note = _attempted(run)
        return replace(trial, images_per_s=speed, note=note)

    def placements(self) -> list[Placement]:
        """Those that this machine has and the settings allow."""
        asked = self._config.loader.placement
        if asked != "auto":
            return [asked]
        with_dali: list[Placement] = [] if require_dali() else ["dali-cpu"]
        on_gpu: list[Placement] = ["dali-gpu"] if with_dali and self._ranks.device.type == "cuda" else []
        return ["host", *with_dali, *on_gpu]

    def end_to_end(self, way: Trial, placement: Placement) -> Trial:
        """Time the step on batches as `placement` brings them."""
        speed, note = _attempted(lambda: (self._end_to_end(way, placement), ""))
        return replace(way, placement=placement, images_per_s=speed, note=note)

    def _end_to_end(self, way: Trial, placement: Placement) -> float:
        train, _ = self._trainer(way)
        config, ranks = self._config, self._ranks
        loader_config = replace(config.loader, placement=placement, cache="none")
        with open_loader(loader_config, self._shards, self._rows, ranks.device, threads=ranks.threads) as loader:
            requests = train_requests(
                self._rows,
                Partition(samples=len(self._rows), batch_size=self.local_batch_size),
                config.augment,
                seed=config.seed,
                size=self.size,
                epochs=range(10**6),
            )
            renderer = loader.renderer(self.local_batch_size)
            stream = batches(self._shards, config.model.meta, renderer, requests, ranks.device)
            return self._timed(train, stream, _LOADER_SECONDS)

    def _trainer(self, way: Trial) -> tuple[Callable[[Batch], None], list[str]]:
        config, device = self._config, self._ranks.device
        model, objective = build_network(
            config.backbone,
            config.model,
            config.optim,
            config.target,
            size=self.size,
            weights="none",
            device=device,
            channels_last=way.channels_last,
        )
        step = Step(
            network=model,
            objective=objective,
            autocast=autocast_of(chosen_dtype(config.precision, device), device),
            samples=self.local_batch_size,
            parts=config.accumulate,
        )
        ready = prepared_step(step, model, self._batch, self._ranks, compiling=way.compile, capturing=way.cuda_graph)
        optimizer = create_optimizer(model, config.optim)

        def train(batch: Batch) -> None:
            ready.gradients(batch)
            optimizer.step()

        return train, ready.remarks

    def _timed(self, train: Callable[[Batch], None], stream: Iterable[Batch], seconds: float) -> float:
        """Images/s: the median over steps, each waited for; on a GPU over groups of ten."""
        group = 10 if self._ranks.device.type == "cuda" else 1
        iterator = iter(stream)
        rates: list[float] = []
        begin = time.perf_counter()
        for _ in range(_WARM_UP):
            train(next(iterator))
        while len(rates) < 3 or time.perf_counter() - begin < seconds:
            _wait(self._ranks.device)
            start = time.perf_counter()
            for _ in range(group):
                train(next(iterator))
            _wait(self._ranks.device)
            rates.append(group * self.local_batch_size / (time.perf_counter() - start))
        return median(rates)


def _attempted(run: Callable[[], tuple[float, str]]) -> tuple[float, str]:
    """What `run` gives; a trial that is too large for the memory is noted, not fatal, and gives back what it took."""
    try:
        return run()
    except torch.OutOfMemoryError:
        return 0.0, "out of memory"
    finally:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _fastest(trials: list[Trial]) -> int:
    """Number of the fastest; a later one, which is more trouble, must be faster by a margin."""
    if not any(trial.images_per_s for trial in trials):
        raise UserError(f"--autotune: no way to run the step worked ({trials[0].note}): lower --batch-size")
    best = 0
    for number, trial in enumerate(trials):
        if trial.images_per_s > _WORTH * trials[best].images_per_s:
            best = number
    return best


def _remember(config: TrainConfig, ranks: Ranks, bench: _Bench, chosen: Trial) -> None:
    _, path = remembered(config, ranks, bench.size, bench.local_batch_size)
    found = {name: getattr(chosen, name) for name in ("channels_last", "compile", "cuda_graph", "placement")}
    path.parent.mkdir(parents=True, exist_ok=True)
    case = _case(config, ranks, bench.size, bench.local_batch_size)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps({"case": case, "found": found, "images_per_s": chosen.images_per_s}) + "\n")
    temporary.replace(path)


def _case(config: TrainConfig, ranks: Ranks, size: int, local_batch_size: int) -> dict[str, Any]:
    """All that the answer depends on."""
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
    for heading in ("memory format", "compile", "CUDA graph", "data", "images/s"):
        table.add_column(heading, justify="right" if heading == "images/s" else "left")
    for trial in (*steps, *ends):
        layout = "channels_last" if trial.channels_last else "contiguous"
        speed = f"{trial.images_per_s:,.0f}{' *' if trial is chosen else ''}" if trial.images_per_s else trial.note
        table.add_row(
            layout, _on(trial.compile), _on(trial.cuda_graph), trial.placement or "a batch that lies ready", speed
        )
    Console().print(table)


def _on(fact: bool) -> str:
    return "on" if fact else "off"


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
