"""How our stream grows: with threads, ranks, batch and samples. One thing is varied, the rest stays."""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.comparison import ours
from benchmarks.peers.job import Job
from benchmarks.process import LoaderProcess
from benchmarks.record import Record
from benchmarks.rounds import in_turns, spread
from configs.files import written_whole
from prep.files import file_sha256
from prep.manifest import MANIFEST, SAMPLES, count_rows, labels_digest, read_manifest, write_manifest

_ROWS_AT_A_TIME = 65_536


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What is swept."""

    threads: Sequence[int]
    ranks: Sequence[int]
    batch: Sequence[int] = (16, 32, 64, 128, 256, 512)
    samples: Sequence[int] = (5_000, 50_000, 250_000, 1_000_000)

    @classmethod
    def up_to(cls, threads: int) -> "Sizes":
        """Ranks 1, 2, 4 ... and `threads` itself, and threads up to twice as many."""
        ranks = sorted({min(2**power, threads) for power in range(threads.bit_length() + 1)})
        return cls(threads=[*ranks, 2 * threads], ranks=ranks)


def sweeps(common: Job, sizes: Sizes, *, rounds: int, seconds: float, say: Callable[[str], None]) -> list[Record]:
    """All of them, the whole augmentation, our default placement."""
    job = ours(common.device, "quick")[0].job(common, "full")
    cases: dict[str, dict[float, list[Job]]] = {
        "threads": {x: [replace(job, threads=x)] for x in sizes.threads},
        "ranks": {x: _ranks(job, x) for x in sizes.ranks},
        "batch": {x: [replace(job, batch_size=x)] for x in sizes.batch},
        "samples": {
            x: [replace(job, shards=str(repeated(Path(common.shards), common.own / f"repeated{x}", x)))]
            for x in sizes.samples
        },
    }
    found = []
    for name, jobs in cases.items():
        say(f"scaling: {name} {', '.join(f'{x:g}' for x in jobs)}")
        found.append({"name": name, "points": _measured(common.own / "logs", name, jobs, rounds, seconds)})
    return found


def _measured(logs: Path, name: str, cases: dict[float, list[Job]], rounds: int, seconds: float) -> list[Record]:
    """Images/s of `threads` and `ranks`, milliseconds per `batch`, else microseconds per image."""
    memory: dict[float, float] = {}

    def together(x: float, processes: list[LoaderProcess]) -> float:
        for process in processes:
            process.begin(seconds)
        found = [process.end(seconds) for process in processes]
        memory[x] = round(sum(each["memory_mib"] for each in found), 1)
        rate: float = sum(each["rate"] for each in found)
        return {"threads": rate, "ranks": rate, "batch": x / rate * 1e3}.get(name, 1e6 / rate)

    with ExitStack() as opened:
        running: dict[float, list[LoaderProcess]] = {}
        for x, jobs in cases.items():
            log = logs / f"{name} {x:g}.log"
            running[x] = [opened.enter_context(closing(LoaderProcess("ours", job, log=log))) for job in jobs]
        for step in (LoaderProcess.imported, LoaderProcess.open):
            for processes in running.values():
                for process in processes:
                    step(process)
        turns = {x: partial(together, x, processes) for x, processes in running.items()}
        in_turns(turns, 1)  # pages, pools
        found = in_turns(turns, rounds)
        opening = {x: max(process.ready["first_batch_s"] for process in running[x]) for x in cases}
    return [{"x": x, "y": spread(found[x]), "memory_mib": memory[x], "open_s": round(opening[x], 2)} for x in cases]


def _ranks(job: Job, ranks: int) -> list[Job]:
    """Each rank's share of the threads and of every batch, but no batches so small that their own cost counts."""
    batch_size = max(min(16, job.batch_size), job.batch_size // ranks)
    job = replace(job, threads=max(1, job.threads // ranks), batch_size=batch_size)
    return [replace(job, options={**job.options, "rank": rank, "world_size": ranks}) for rank in range(ranks)]


def repeated(source: Path, folder: Path, samples: int, *, shard_files: int = 0) -> Path:
    """A shard set of `samples` rows that name the few samples of another again and again: only its index is large.

    They lie in about `shard_files` shards, links to the other's, or in as many as it has.
    """
    if (folder / MANIFEST).is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    manifest = read_manifest(source)
    table = pq.read_table(source / SAMPLES).slice(0, manifest.samples)
    table = table.filter(np.asarray(table["fold"]) >= 0)
    whole = table.take(np.arange(samples) % len(table))
    entries = {shard.file: shard for shard in manifest.shards if shard.file in set(table["shard"].to_pylist())}
    copies = max(1, shard_files // len(entries))
    times: Counter[str] = Counter()
    names = []
    for name in whole["shard"].to_pylist():
        names.append(f"{name.removesuffix('.tar')}-{times[name] % copies:06d}.tar")
        times[name] += 1
    whole = whole.set_column(whole.schema.get_field_index("shard"), "shard", pa.array(names))
    with written_whole(folder / SAMPLES) as out:
        pq.write_table(whole, out, row_group_size=_ROWS_AT_A_TIME)
    shards = []
    for name, rows in Counter(names).items():
        entry = entries[f"{name[:-11]}.tar"]
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to((source / entry.file).absolute())
        shards.append(replace(entry, file=name, samples=rows))
    described = replace(
        manifest,
        samples=samples,
        left_out=0,
        counts=count_rows(whole),
        labels_sha256=labels_digest(whole),
        files={SAMPLES: file_sha256(folder / SAMPLES)},
        shards=shards,
    )
    write_manifest(described, folder)
    return folder
