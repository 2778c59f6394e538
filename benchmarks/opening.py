"""What opening a shard set costs each rank, in memory and time, where its index is large and its images are few.

    python -m benchmarks.opening --shards shards/isic --samples 1000000

The ranks are torchrun's. What counts as a rank's own is its anonymous memory (Linux): the columns of the samples are a
file that all ranks of a machine map.
"""

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from benchmarks.record import ROOT, Record, write
from benchmarks.scaling import repeated
from configs.cli import parse, run_command
from configs.errors import UserError, check_ranges, ranged
from engine.data import open_shards
from engine.distributed import joined_ranks
from loaders.order import epoch_orders

_WHAT = (
    "A shard set of few images whose index names them again and again, opened by the ranks of one machine: bytes per "
    "sample of memory that a rank has to itself, when the set is open, at the most until then, and with the order of "
    "an epoch; and seconds until it is open. The worst rank of each round"
)
_RANK = "import sys; from benchmarks.opening import measure; measure(sys.argv[1], sys.argv[2])"
_SAMPLED_SECONDS = 0.002


@dataclass(frozen=True, kw_only=True)
class OpeningConfig:
    """What `python -m benchmarks.opening` is asked for."""

    shards: str = "shards/sample128"
    """Folder of the shard set that is repeated."""
    samples: int = ranged(1_000_000, low=1)
    """Rows of the index (1 or more)."""
    shard_files: int = ranged(5_000, low=0)
    """About how many shards they lie in, links to the set's; 0 means as many as there are."""
    ranks: int = ranged(2, low=1)
    """Ranks (1 or more)."""
    rounds: int = ranged(3, low=1)
    """Rounds (1 or more)."""
    out: str = "benchmarks/results/opening.json"
    """Where the record is written."""

    def __post_init__(self) -> None:
        check_ranges(self)


def main(argv: Sequence[str]) -> None:
    """Parse, measure, record."""
    config = parse(OpeningConfig, argv, prog="python -m benchmarks.opening", description=(__doc__ or "").split("\n")[0])
    with tempfile.TemporaryDirectory() as scratch:
        folder = repeated(Path(config.shards), Path(scratch, "set"), config.samples, shard_files=config.shard_files)
        rounds = [_opened(folder, config.ranks) for _ in range(config.rounds)]
    found = {name: max(each[name] for each in rounds) for name in rounds[0]}
    sizes = {name: getattr(config, name) for name in ("samples", "shard_files", "ranks", "rounds")}
    record = write(Path(config.out), {"what": _WHAT, **sizes, **found})
    print(json.dumps({name: record[name] for name in found}, indent=1))


def _opened(folder: Path, ranks: int) -> Record:
    """The worst rank's figures."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    found = folder.with_suffix(".json")
    command += ["--no-python", sys.executable, "-c", _RANK, str(folder), str(found)]
    subprocess.run(command, cwd=ROOT, check=True)
    each = json.loads(found.read_text())
    return {name: max(one[name] for one in each) for name in each[0]}


def measure(folder: str, found: str) -> None:
    """Measure on every rank; the first one writes the figures of all to the file `found`."""
    with joined_ranks("cpu") as ranks, Memory() as memory:
        begin = time.perf_counter()
        with open_shards(Path(folder), ranks) as shards:
            seconds, opened, most = time.perf_counter() - begin, memory.added(), memory.most
            rows = shards.train_rows(0)
            ((_, order),) = epoch_orders(len(rows), 0, range(1))
            order = rows[order]
            ordered, samples = memory.added(), len(shards)
            assert len(shards.meta("clinical")[order[:128]]) == 128
        sizes = {"open_bytes": opened, "most_bytes": most, "ordered_bytes": ordered}
        own = {**{name: round(size / samples, 1) for name, size in sizes.items()}, "open_s": round(seconds, 2)}
        each = ranks.merge({ranks.rank: own})
    if ranks.first:
        Path(found).write_text(json.dumps(list(each.values())))


class Memory:
    """Anonymous memory of this process, in bytes, since this was entered; the most is sampled on a thread."""

    def __enter__(self) -> Self:
        self._before, self.most = _anonymous(), 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def added(self) -> int:
        """Now."""
        return _anonymous() - self._before

    def _sample(self) -> None:
        while not self._end.wait(_SAMPLED_SECONDS):
            self.most = max(self.most, self.added())


def _anonymous() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise UserError("/proc/self/status has no RssAnon: measure on Linux")


if __name__ == "__main__":
    run_command(main)
