"""The folder of a member, runs/NAME/BACKBONE/foldK, and what is written there and printed during training."""

import importlib.metadata
import json
import math
import platform
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from tensorboard.summary import Writer

from configs.console import plain_console
from configs.files import written_whole
from configs.schema import TrainConfig

_PACKAGES = (
    *("torch", "timm", "nvidia-dali-cuda130", "webdataset", "numpy"),
    *("opencv-python-headless", "simplejpeg", "scikit-learn"),
)


SETTINGS, METRICS, CURVES = "config.yaml", "metrics.jsonl", "training_curves.png"


def member_folder(config: TrainConfig) -> Path:
    """OUT/BACKBONE/foldK, or foldnone."""
    return Path(config.out) / config.backbone / f"fold{config.fold_word}"


def epoch_lines(folder: Path) -> list[dict[str, Any]]:
    """The lines of epochs (not of steps) in a member's metrics.jsonl that can be read; none if there is no file."""
    return [line for line in _parsed_lines(folder) if line is not None and "step" not in line]


def damaged_lines(folder: Path) -> int:
    """How many lines of a member's metrics.jsonl cannot be read."""
    return _parsed_lines(folder).count(None)


def _parsed_lines(folder: Path) -> list[dict[str, Any] | None]:
    path = folder / METRICS
    return [_parsed(line) for line in path.read_bytes().splitlines()] if path.is_file() else []


def _parsed(line: bytes) -> dict[str, Any] | None:
    """One line of metrics.jsonl; None if it is torn or damaged: the disk was full, or the machine lost its power."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    wanted = isinstance(found, dict) and type(found.get("epoch")) is int and type(found.get("step", 0)) is int
    numbers = wanted and all(value is None or isinstance(value, int | float) for value in found.values())
    return found if numbers else None


class Records:
    """config.yaml, metrics.jsonl, TensorBoard events, a live line on a terminal and plain lines in a log.

    check: called before a line is added to metrics.jsonl; may raise.
    """

    def __init__(
        self, folder: Path, config: TrainConfig, facts: dict[str, Any], check: Callable[[], None] = lambda: None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        settings = {"config": asdict(config), "facts": facts, "versions": versions()}
        with written_whole(folder / SETTINGS) as file:
            file.write(yaml.safe_dump(settings, sort_keys=False).encode())
        self._metrics, self._check = folder / METRICS, check
        self._board = Writer(str(folder))
        self._console = plain_console()
        self._live = Progress(
            SpinnerColumn(),
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            TextColumn("{task.fields[speed]} img/s  loss {task.fields[loss]}  AUC {task.fields[auc]}"),
            TextColumn("waiting {task.fields[waiting]}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
            transient=True,
        )
        self._task = self._live.add_task("", epoch="", speed="-", loss="-", auc="-", waiting="-")

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()
        self._board.close()

    def say(self, line: str) -> None:
        """Print a line above the live one."""
        self._console.print(line, soft_wrap=True)

    def begin_epoch(self, name: str, steps: int, done: int) -> None:
        """Restart the live line's progress bar, with `done` of `steps` completed."""
        self._live.reset(self._task, total=steps)  # passing fields here would clear the others
        self._live.update(self._task, epoch=name, completed=done)

    def progress(self, step: int, *, speed: float, loss: float, waiting: float) -> None:
        """Update the live line; `speed` in images/s, `waiting` from 0 to 1."""
        self._live.update(
            self._task, completed=step, speed=f"{speed:,.0f}", loss=f"{loss:.4f}", waiting=f"{waiting:.0%}"
        )

    def epoch(self, epoch: int, metrics: dict[str, float]) -> None:
        """Append one line to metrics.jsonl (NaN and infinity become null), and the same values to TensorBoard."""
        finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        self._write({"epoch": epoch, **finite})
        for name, value in finite.items():
            if value is not None:
                self._board.add_scalar(name, value, epoch)
        self._board.flush()
        if "auc" in metrics:
            self._live.update(self._task, auc=f"{metrics['auc']:.4f}")

    def step(self, epoch: int, step: int, total: int, figures: dict[str, float]) -> None:
        """Append the line of one step, number `step` of its epoch and `total` of the run (both from 1)."""
        self._write({"epoch": epoch, "step": step, **figures})
        for name, value in figures.items():
            self._board.add_scalar(f"step/{name}", value, total)

    def forget(self, epoch: int, step: int) -> None:
        """Drop the lines after step `step` of `epoch`: what they report is trained again. Drop what cannot be read."""
        if not self._metrics.is_file():
            return
        lines = self._metrics.read_bytes().splitlines(keepends=True)
        parsed = [_parsed(line) for line in lines]
        kept = [
            line
            for line, found in zip(lines, parsed, strict=True)
            if found is not None and line.endswith(b"\n") and _cursor(found) <= (epoch, step)
        ]
        damaged = parsed.count(None)
        if damaged:
            self.say(f"warning: {self._metrics}: {damaged} line(s) cannot be read and are dropped; the others are kept")
        if kept != lines:
            with written_whole(self._metrics) as file:
                file.write(b"".join(kept))

    def _write(self, line: dict[str, Any]) -> None:
        self._check()
        with self._metrics.open("a") as file:
            file.write(json.dumps(line) + "\n")


def _cursor(line: dict[str, Any]) -> tuple[int, int]:
    """The (epoch, step) after which a line is written: that of a whole epoch is the start of the next one."""
    return (line["epoch"], line["step"]) if "step" in line else (line["epoch"] + 1, 0)


def versions() -> dict[str, str]:
    """The version of Python and of every package that a result depends on."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found
