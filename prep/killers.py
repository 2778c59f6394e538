"""Images whose reading kills the process: found, named and left out like other bad ones, so that the rest is packed.

Each chunk notes the image that it reads (STEM.now). Where a worker was killed, every image so noted is read again in a
process of its own, and one that kills this too is listed in STEM.killers, which the chunk then does not read.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from configs.errors import note
from prep.images import BadImageError
from prep.pool import WorkerDiedError, Workers, killed_by, with_progress
from prep.stage import StageTask, read_image, read_killers, stage_chunk


def stage_all(tasks: Sequence[StageTask], folder: Path, workers: Workers) -> None:
    """Make every chunk in `folder`. Raises WorkerDiedError, naming images, where none of them alone kills a worker."""
    # With one worker this very process is killed, and the next run finds which image it was at.
    _judge(tasks, [] if workers.count > 1 else _noted(tasks))
    for mark in folder.glob("*.now"):
        mark.unlink(missing_ok=True)
    while True:
        try:
            staged = workers.in_order(stage_chunk, tasks)
            for _ in with_progress(staged, "reading", sum(len(task.files) for task in tasks), lambda count: count):
                pass
            return
        except WorkerDiedError as error:
            noted = _noted(tasks)
            if not _judge(tasks, noted):
                names = " or ".join(tasks[chunk].files[number][0] for chunk, number in noted)
                raise WorkerDiedError(f" while it read {names}" if names else "") from error


def _noted(tasks: Sequence[StageTask]) -> list[tuple[int, int]]:
    """Chunk and number of each image that was being read when its process ended."""
    found = []
    for chunk, task in enumerate(tasks):
        mark = Path(f"{task.stem}.now")
        with suppress(FileNotFoundError):  # which on a cluster another process may remove
            number = int(mark.read_text() or 0)
            found += [(chunk, number)] * (number < len(task.files))
            mark.unlink()
    return found


def _judge(tasks: Sequence[StageTask], suspects: Sequence[tuple[int, int]]) -> int:
    """Read the suspects, and those found guilty before, each in a process of its own; list those that kill it.

    Returns the number of suspects among them.
    """
    guilty = 0
    for chunk, task in enumerate(tasks):
        before, new = read_killers(task.stem), [number for each, number in suspects if each == chunk]
        if not before and not new:
            continue
        killing = [number for number in {*before, *new} if killed_by(_read, _only(task, number))]
        guilty += len({*killing} & {*new})
        for number in killing:
            note(f"{task.files[number][0]}: the process that read it was killed")
        Path(f"{task.stem}.killers").write_text(" ".join(map(str, sorted(killing))))
    return guilty


def _only(task: StageTask, number: int) -> StageTask:
    return replace(task, files=(task.files[number],))


def _read(task: StageTask) -> None:
    with suppress(BadImageError):  # whoever reads it again says why
        read_image(task.files[0][0], task.encoding, task.max_pixels)
