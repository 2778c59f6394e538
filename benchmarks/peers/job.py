"""What a loader is asked for when it is measured, and what it must hand over. Standard library only, for every peer.

An adapter is a module of this folder. Its docstring says what its batches hold and what its work leaves out.

    prepare(job)             where it has a format of its own: write the images under job.folder, once
    epochs(job)              endless: epochs of (images uint8 [b, size, size, 3], targets [b]), in a new order each
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

WORKLOADS = ("flips", "full")
"""flips: decode and flip both ways; full: the whole training augmentation."""

Epochs = Iterator[Iterable[tuple[Any, Any]]]


@dataclass(frozen=True, kw_only=True)
class Job:
    """One loader, one workload.

    shards: a shard set; data: the same training images as a folder of JPEGs with table.csv; folder: for the peer's own
    format; device: cpu or cuda, where the batches are wanted; options: what distinguishes variants of an adapter.
    """

    shards: str
    data: str
    folder: str
    workload: str = "full"
    batch_size: int = 128
    threads: int = 1
    size: int = 256
    seed: int = 0
    device: str = "cpu"
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def pin(self) -> bool:
        """Whether batches should be in pinned memory, to be copied to a GPU."""
        return self.device == "cuda"

    @property
    def own(self) -> Path:
        """The folder of the peer's own format."""
        return Path(self.folder)

    @property
    def workers(self) -> dict[str, Any]:
        """The options of a DataLoader with worker processes."""
        return {"batch_size": self.batch_size, "num_workers": self.threads, "pin_memory": self.pin}

    def files(self) -> tuple[list[str], list[float]]:
        """The JPEGs of the training images and their targets."""
        lines = [line.split(",") for line in (Path(self.data) / "table.csv").read_text().splitlines()]
        key, target = (lines[0].index(name) for name in ("key", "target"))
        paths = [f"{self.data}/images/{line[key]}.jpg" for line in lines[1:]]
        return paths, [float(line[target]) for line in lines[1:]]

    def tars(self) -> list[str]:
        """The shards that hold training images."""
        return [str(path) for path in sorted(Path(self.shards).glob("*train*.tar"))]
