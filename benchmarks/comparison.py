"""The loaders side by side: every one in turn, each workload, as multiples of bare decoding and of ours."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import Literal

from benchmarks.contenders import AGAIN, OURS, PEERS, Contender, Ground, ours
from benchmarks.process import LoaderProcess, Turn
from benchmarks.record import LoaderFigures
from benchmarks.turns import in_turns, is_tie, noise, ratio, spread
from configs.errors import UserError

Peers = Literal["none", "quick", "all"]
Case = tuple[str, str]  # name, workload
LIMIT = "limit"


@dataclass(kw_only=True)
class Seen:
    """A running contender and what its turns gave."""

    process: LoaderProcess
    disk_mib: float
    threads: int
    turns: list[Turn] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)


def compared(
    place: Ground, *, peers: Peers, workloads: tuple[str, ...], rounds: int, seconds: float, say: Callable[[str], None]
) -> tuple[list[LoaderFigures], float]:
    """Figures of every contender and workload, and the A/A control over all workloads."""
    failed: dict[Case, str] = {}
    cases = {(one.name, workload): one for one, workload in _cases(place, peers, workloads)}
    disk = _prepared(place, cases, failed, say)
    with ExitStack() as opened:
        say(f"starting {len(cases) - len(failed)} loaders")
        seen = {
            (name, workload): _started(place, one, workload, disk.get((name, workload), 0.0), opened)
            for (name, workload), one in cases.items()
            if (name, workload) not in failed
        }
        for step in (LoaderProcess.imported, LoaderProcess.open):  # imports share the cores, openings do not
            for case, one in seen.items():
                _try(case, failed, partial(step, one.process))
        say(f"{len(seen) - len(failed)} loaders take turns, {rounds} rounds")
        in_turns({case: partial(_turn, case, one, failed, seconds) for case, one in seen.items()}, rounds)
    limit = _limit(place.threads), LIMIT
    rates = {
        case: [turn.images / turn.seconds for turn in one.turns] for case, one in seen.items() if case not in failed
    }
    control = max(noise(rates[OURS, workload], rates[AGAIN, workload]) for workload in workloads)
    made = [_figures(case, seen[case], rates, limit, control) for case in rates]
    missing = [LoaderFigures(name=name, workload=workload, failed=why) for (name, workload), why in failed.items()]
    return made + missing, control


def thread_steps(most: int) -> list[int]:
    """1, 2, 4 ... and `most` itself."""
    return sorted({min(2**power, most) for power in range(most.bit_length() + 1)})


def _limit(threads: int) -> str:
    return f"libjpeg-turbo alone, {threads} thread{'s' if threads > 1 else ''}"


def _cases(place: Ground, peers: Peers, workloads: tuple[str, ...]) -> Iterator[tuple[Contender, str]]:
    for threads in thread_steps(place.threads):
        yield Contender(name=_limit(threads), adapter="turbojpeg", threads=threads), LIMIT
    chosen = [one for one in PEERS if peers == "all" or (peers == "quick" and one.quick)]
    for workload in workloads:
        for one in [*ours(place.device, peers), *chosen]:
            yield one, workload


def _prepared(
    place: Ground, cases: dict[Case, Contender], failed: dict[Case, str], say: Callable[[str], None]
) -> dict[Case, float]:
    """MiB on disk of each that could be prepared."""
    found: dict[Case, float] = {}
    for case, one in cases.items():
        if case[1] != LIMIT:
            say(f"preparing {one.name}, {case[1]}")
            try:
                found[case] = place.prepare(one)
            except UserError as error:
                failed[case] = str(error)
    return found


def _started(place: Ground, one: Contender, workload: str, disk: float, opened: ExitStack) -> Seen:
    threads = one.threads or place.threads
    job = place.job(one, "flips" if workload == LIMIT else workload, threads=threads)
    log = place.work / "logs" / f"{one.name}, {workload}.log"
    process = opened.enter_context(closing(LoaderProcess(one.adapter, job, python=one.python(), log=log)))
    return Seen(process=process, disk_mib=disk, threads=threads)


def _try(case: Case, failed: dict[Case, str], step: Callable[[], None]) -> None:
    """Take a step of a contender that has not failed yet; only what all others are compared with may not fail."""
    if case in failed:
        return
    try:
        step()
    except UserError as error:
        if case[0] in (OURS, AGAIN) or case[1] == LIMIT:
            raise
        failed[case] = str(error)


def _turn(case: Case, one: Seen, failed: dict[Case, str], seconds: float) -> float:
    def turn() -> None:
        one.turns.append(one.process.turn(seconds))
        one.memory.append(one.process.memory_mib or 0.0)

    _try(case, failed, turn)
    return 0.0


def _figures(case: Case, one: Seen, rates: dict[Case, list[float]], limit: Case, control: float) -> LoaderFigures:
    name, workload = case
    beside = None if workload == LIMIT else ratio(rates[case], rates[OURS, workload])
    waits = [wait for turn in one.turns for wait in turn.epoch_waits_s]
    cpu = [turn.cpu_seconds / turn.consumed for turn in one.turns]
    return LoaderFigures(
        name=name,
        workload=workload,
        contract=one.process.contract,
        threads=one.threads,
        images_per_s=spread(rates[case]),
        of_limit=ratio(rates[case], rates[limit]),
        of_ours=beside,
        tie=beside is not None and name != OURS and is_tie(beside, control),
        first_batch_s=round(one.process.first_batch_s, 3),
        epoch_wait_ms=round(median(waits) * 1e3, 1) if waits else None,
        cpu_us=round(median(cpu) * 1e6, 1),
        memory_mib=max(one.memory) or None,
        disk_mib=one.disk_mib or None,
    )
