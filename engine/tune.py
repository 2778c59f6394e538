"""The fastest way to run the step on this machine: measured by --autotune, remembered, looked up by later runs."""

import hashlib
import json
import os
import platform
from contextlib import closing
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import torch
from rich.table import Table

from configs.console import plain_console
from configs.errors import UserError
from configs.files import written_whole
from configs.schema import LoaderConfig, TrainConfig
from engine.default_speed import default_speed
from engine.distributed import Ranks
from engine.prepare_step import Speed
from engine.trials import MIN_SPEEDUP, Bench, Trial
from loaders.placement import available_placements

_STEP_SECONDS = 4.0  # per way to run the step
_LOADER_SECONDS = 6.0  # per way to feed it
# What is tried of the loader besides its placements and defaults, in this order.
_TRIED: dict[str, tuple[Any, ...]] = {
    "cache": ("gpu",),
    "decode": ("cpu",),
    "hw_decoder_load": (0.1, 0.35, 0.9),
    "prefetch": (4, 8),
}


@dataclass(frozen=True, kw_only=True)
class Way:
    """How a run's step is run and fed."""

    speed: Speed
    loader: LoaderConfig


def chosen_way(
    config: TrainConfig, ranks: Ranks, size: int, local_batch_size: int, *, steps: int
) -> tuple[Way, list[str]]:
    """What the settings say; where they say auto, what --autotune found before for this machine, backbone and size;
    else what the rule says for the `steps` still to do.

    The loader's settings have no auto, but for the placement: what was found is taken for those at their defaults, if
    the placement is auto or the one found.
    """
    known, path = ranks.from_first(lambda: remembered(config, ranks, size, local_batch_size))
    asked, loader = config.speed, config.loader
    layouts: dict[str, bool | None] = {"channels_last": True, "contiguous": False, "auto": known.get("channels_last")}
    switches = {"on": True, "off": False}
    compiling, capturing = default_speed(steps, on_gpu=ranks.device.type == "cuda", world_size=ranks.world_size)
    if known and loader.placement in ("auto", known["placement"]) and loader.cache == "none":
        untouched = [name for name in _TRIED if getattr(loader, name) == getattr(LoaderConfig(), name)]
        loader = replace(loader, **{name: known[name] for name in ("placement", *untouched)})
    speed = Speed(
        channels_last=layouts[asked.memory_format],
        compile=not config.sync_batchnorm and switches.get(asked.compile, known.get("compile", compiling)),
        cuda_graph=switches.get(asked.cuda_graph, known.get("cuda_graph", capturing)),
    )
    words = [*_words(speed), *([] if loader is config.loader else [_data(loader)])]
    remark = f"using the --autotune result in {path}: {', '.join(words)}"
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
    hints = get_type_hints(LoaderConfig)
    words = all(found.get(name) in get_args(hints[name]) for name in ("placement", "cache", "decode"))
    try:
        LoaderConfig(**{name: found[name] for name in ("placement", *_TRIED)})
    except (KeyError, TypeError, UserError):
        return False
    return words and all(isinstance(found.get(field.name), bool) for field in fields(Speed))


def tune(config: TrainConfig, ranks: Ranks) -> None:
    """Find the fastest way to run the step on a resident batch, then the fastest way to feed it; print the table, and
    remember what was found for `chosen_way`.

    One setting is tried after the other, each with the best of those before, and only what the config leaves open. A
    trial that fails is a line in the table. Twice the batch is tried too, but only suggested: it is another recipe.

    Several ranks measure at the same time, each by itself; the first rank's result is used by all.
    """
    with closing(Bench(config, ranks, step_seconds=_STEP_SECONDS, loader_seconds=_LOADER_SECONDS)) as bench:
        speeds = _speeds(config, ranks)
        first = Speed(**{name: values[0] for name, values in speeds.items()})
        best = bench.measured(Trial(speed=first, batch=bench.local_batch_size))
        for name, values in speeds.items():
            others = [replace(best.speed, **{name: value}) for value in values[1:]]
            best = bench.better(best, [replace(best, speed=speed) for speed in others])
        _require_success(best, ranks)
        feeds = _placements(config.loader, ranks)
        best = bench.measured(replace(best, loader=feeds[0]))
        best = bench.better(best, [replace(best, loader=feed) for feed in feeds[1:]])
        for name in _TRIED:
            feeds = _others(name, best.loader, config.loader)
            best = bench.better(best, [replace(best, loader=feed) for feed in feeds])
        _require_success(best, ranks)
        larger = bench.measured(replace(best, batch=2 * best.batch))
    if ranks.first:
        _print(bench, best, f"{config.backbone}, {bench.size} px, {best.batch} per rank, {_device_name(ranks)}")
        _remember(config, ranks, bench, best)
        if larger.images_per_s > MIN_SPEEDUP * best.images_per_s:
            gain = larger.images_per_s / best.images_per_s - 1
            print(
                f"--autotune: --batch-size {2 * config.batch_size} would train {gain:.0%} faster; the batch is part of "
                f"the recipe, so {config.batch_size} is kept"
            )


def _speeds(config: TrainConfig, ranks: Ranks) -> dict[str, tuple[bool, ...]]:
    """The settings of the step that are left open, by their names in Speed, the simplest value first."""
    switch = {"auto": (False, True), "on": (True,), "off": (False,)}
    alone_on_gpu = ranks.device.type == "cuda" and ranks.world_size == 1
    layouts = {"auto": (True, False), "channels_last": (True,), "contiguous": (False,)}
    return {
        "channels_last": layouts[config.speed.memory_format],
        "compile": (False,) if config.sync_batchnorm else switch[config.speed.compile],
        "cuda_graph": switch[config.speed.cuda_graph] if alone_on_gpu else (False,),
    }


def _placements(asked: LoaderConfig, ranks: Ranks) -> list[LoaderConfig]:
    """The loader in each placement that this machine has and the settings allow, without a cache."""
    allowed = available_placements(ranks.device) if asked.placement == "auto" else [asked.placement]
    return [replace(asked, placement=placement, cache="none") for placement in allowed]


def _others(name: str, best: LoaderConfig | None, asked: LoaderConfig) -> list[LoaderConfig]:
    """`best` with other values of a setting, if the user has left that at its default and `best` makes use of it."""
    assert best is not None
    on_gpu = best.placement == "dali-gpu"
    decodes = on_gpu and best.cache == "none"
    uses = {"cache": on_gpu, "decode": decodes, "hw_decoder_load": decodes and best.decode == "mixed", "prefetch": True}
    if not uses[name] or getattr(asked, name) != getattr(LoaderConfig(), name):
        return []
    return [replace(best, **{name: value}) for value in _TRIED[name]]


def _require_success(best: Trial, ranks: Ranks) -> None:
    if ranks.first and not best.images_per_s:
        raise UserError(
            f"--autotune: every way to run the step failed ({best.note}): lower --batch-size where memory is short, or "
            "train without --autotune"
        )


def _remember(config: TrainConfig, ranks: Ranks, bench: Bench, chosen: Trial) -> None:
    _, path = remembered(config, ranks, bench.size, bench.local_batch_size)
    if path is None:
        print("--autotune: this user has no home folder (HOME), so that the result is not remembered")
        return
    assert chosen.loader is not None
    found = {**asdict(chosen.speed), **{name: getattr(chosen.loader, name) for name in ("placement", *_TRIED)}}
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


def _print(bench: Bench, chosen: Trial, title: str) -> None:
    table = Table(title=f"--autotune: {title}", title_justify="left")
    for heading in ("memory format", "compilation", "CUDA graph", "data", "images/s"):
        table.add_column(heading, justify="right" if heading == "images/s" else "left")
    for trial in bench.trials:
        speed = f"{trial.images_per_s:,.0f}{' *' if trial is chosen else ''}" if trial.images_per_s else trial.note
        data = "a resident batch" if trial.loader is None else _data(trial.loader)
        larger = "" if trial.batch == chosen.batch else f", {trial.batch} per rank"
        table.add_row(*_words(trial.speed), data + larger, speed)
    plain_console().print(table)


def _words(speed: Speed) -> list[str]:
    layout = "channels_last" if speed.channels_last else "contiguous"
    return [layout, f"compile {'on' if speed.compile else 'off'}", f"cuda_graph {'on' if speed.cuda_graph else 'off'}"]


def _data(loader: LoaderConfig) -> str:
    """Its placement, and what is not at its default."""
    changed = [name for name in _TRIED if getattr(loader, name) != getattr(LoaderConfig(), name)]
    return ", ".join([loader.placement, *(f"{name} {getattr(loader, name)}" for name in changed)])
