"""The members of a grid as processes that Ray or SLURM starts: what both share (engine/launch_ray.py, launch_slurm.py).

A member is the plain command, `python train.py ... --backbone A --fold K`, with a GPU of its own; it writes to
train.log in its folder. Whether it is finished is read from its checkpoint, whatever became of its process. Nothing
here imports torch, but for reading checkpoints.
"""

import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from configs.errors import UserError
from configs.grid import member_words
from configs.launcher import LAUNCHED, STOPPED
from configs.schema import TrainConfig
from engine.records import member_folder

LOG = "train.log"
STARTS = 20  # of one member at most, however often its node is lost or needed for something else
ROOT = Path(__file__).resolve().parents[1]
STOP_SECONDS = 120.0  # for members to save, once they are told to stop
_STOPPING = (signal.SIGTERM, signal.SIGUSR2)  # SLURM sends the second one some time before its limit
_POLL_SECONDS = 0.1
_END_BYTES = 4096  # of a log, which hold its last line


@dataclass(frozen=True, kw_only=True)
class Member:
    """A member as a process, on whichever host: what a launcher hands over."""

    name: str
    """BACKBONE/foldK."""
    log: Path
    words: list[str]
    """What follows train.py."""
    cwd: str
    gpus: int
    cpus: int

    def run(self) -> int:
        """Train it in a child process, until that ends; returns its exit code, or 128 and the signal that ended it.

        SIGTERM and SIGUSR2 reach the child as SIGTERM, and so does KeyboardInterrupt, with which Ray cancels. STOPPED
        also says that SIGTERM came before the child listened.
        """
        self.log.parent.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, LAUNCHED: str(os.getpid()), **({} if self.gpus else {"CUDA_VISIBLE_DEVICES": ""})}
        with _told_to_stop() as told, self.log.open("ab", buffering=0) as log:
            child = subprocess.Popen(
                [sys.executable, str(ROOT / "train.py"), *self.words],
                cwd=self.cwd,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=_ignore_second,
            )
            try:
                while child.poll() is None:  # a blocking wait would hold back what Ray cancels with
                    if told:
                        told.clear()
                        child.terminate()
                    time.sleep(_POLL_SECONDS)
            except KeyboardInterrupt:
                child.terminate()
                child.wait()
                raise
            code = child.returncode
            if code < 0:
                log.write(f"ended by {signal.Signals(-code).name}\n".encode())
                code = STOPPED if code == -signal.SIGTERM else 128 - code
        return code


def _ignore_second() -> None:
    """SLURM signals every process of a member; train.py knows SIGTERM only."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)


@contextmanager
def _told_to_stop() -> Iterator[list[int]]:
    """The signals to stop that this process has been sent since."""
    told: list[int] = []
    before = {number: signal.signal(number, lambda sent, _: told.append(sent)) for number in _STOPPING}
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def launch_grid(argv: Sequence[str], configs: list[TrainConfig]) -> dict[str, str]:
    """Start every member of the grid `argv` that is not finished, and wait; returns what became of each, by its name:
    "finished", "failed: " and the last line that it wrote, or "missing" if it wrote none.

    Raises UserError if the engine refuses, and KeyboardInterrupt for Ctrl-C and SIGTERM, once the members are stopped.
    """
    if os.environ.get("TORCHELASTIC_RUN_ID"):
        raise UserError("torchrun and --launch both start processes: start --launch with python")
    launch = configs[0].launch
    unfinished = [config for config in configs if not _is_finished(config)]
    members = [_member(argv, config) for config in unfinished]
    sizes = [_size(member.log) for member in members]
    if members:
        print(f"{len(members)} of {len(configs)} members to train by {launch.by}, see their {LOG}", flush=True)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        importlib.import_module(f"engine.launch_{launch.by}").train(members, launch, Path(configs[0].out))
    states = {member_name(config): "finished" for config in configs}
    for config, member, size in zip(unfinished, members, sizes, strict=True):
        if not _is_finished(config):
            states[member.name] = f"failed: {last_line(member.log)}" if _size(member.log) > size else "missing"
    return states


def _is_finished(config: TrainConfig) -> bool:
    """Whether a member's last.pt says so; False where it cannot be used: the member's own process tells why."""
    if not any(member_folder(config).glob("*.pt")):
        return False
    from engine.run import finished_words  # imports torch

    try:
        return finished_words(config) is not None
    except UserError:
        return False


def _member(argv: Sequence[str], config: TrainConfig) -> Member:
    words = [f"--loader.threads={config.launch.cpus}", *member_words(argv, config)]
    return Member(
        name=member_name(config),
        log=member_folder(config).absolute() / LOG,
        words=words,
        cwd=str(Path.cwd()),
        gpus=0 if config.device == "cpu" else config.launch.gpus,
        cpus=config.launch.cpus,
    )


def member_name(config: TrainConfig) -> str:
    """BACKBONE/foldK."""
    return f"{config.backbone}/fold{config.fold_word}"


def last_line(log: Path) -> str:
    """The last line of a log that is not empty."""
    with log.open("rb") as file:
        file.seek(max(0, _size(log) - _END_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    return next(filter(None, (line.strip() for line in reversed(lines))), "")


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
