"""The loaders side by side: every one in turn, each workload, as multiples of bare decoding and of ours."""

from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import partial
from statistics import median

from benchmarks.contenders import AGAIN, OURS, PEERS, Contender, Ground, Peers, ours
from benchmarks.process import LoaderProcess, Turn
from benchmarks.record import LoaderFigures
from benchmarks.turns import in_turns, is_tie, noise, ratio, spread
from configs.errors import UserError


@dataclass(kw_only=True)
class Seen:
    """A contender on one workload, and what its turns gave; `failed` says why it takes no more turns."""

    contender: Contender
    threads: int
    disk_mib: float = 0.0
    process: LoaderProcess | None = None
    failed: str = ""
    turns: list[Turn] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)

    @property
    def rates(self) -> list[float]:
        """Images/s, a figure for each turn."""
        return [turn.images / turn.seconds for turn in self.turns]

    def attempt(self, step: Callable[[], None]) -> None:
        """Take a step unless one failed before; only what all others are compared with may not fail."""
        if self.failed:
            return
        try:
            step()
        except UserError as error:
            if self.contender.kind == "limit" or self.contender.name in (OURS, AGAIN):
                raise
            self.failed = str(error)
            if self.process is not None:  # it must not go on beside the others
                self.process.close()


def compared(
    place: Ground, *, peers: Peers, workloads: tuple[str, ...], rounds: int, seconds: float, say: Callable[[str], None]
) -> tuple[list[LoaderFigures], dict[str, float]]:
    """Figures of every contender on each workload, and each workload's A/A control.

    One workload after the other: memory must hold all that take turns.
    """
    found: list[LoaderFigures] = []
    controls: dict[str, float] = {}
    for workload in workloads:
        seen = _take_turns(place, peers, workload, rounds, seconds, say)
        by_name = {one.contender.name: one for one in seen}
        controls[workload] = noise(by_name[OURS].rates, by_name[AGAIN].rates)
        found += [_figures(one, workload, seen, controls[workload]) for one in seen]
    return found, controls


def thread_steps(most: int) -> list[int]:
    """1, 2, 4 ... and `most` itself."""
    return sorted({min(2**power, most) for power in range(most.bit_length() + 1)})


def _contenders(place: Ground, peers: Peers) -> list[Contender]:
    """Bare decoding on all threads comes last of the limits: it is what the others are compared with."""
    limits = [
        Contender(name=f"libjpeg-turbo alone, threads: {threads}", adapter="turbojpeg", kind="limit", threads=threads)
        for threads in thread_steps(place.threads)
    ]
    chosen = [one for one in PEERS if peers == "all" or (peers == "quick" and one.quick)]
    return [*limits, *ours(place.device, peers), *chosen]


def _take_turns(
    place: Ground, peers: Peers, workload: str, rounds: int, seconds: float, say: Callable[[str], None]
) -> list[Seen]:
    seen = [Seen(contender=one, threads=one.threads or place.threads) for one in _contenders(place, peers)]
    for one in seen:
        one.attempt(partial(_prepare, place, one))
    say(f"starting {sum(not one.failed for one in seen)} loaders: {workload}")
    with ExitStack() as opened:
        for one in seen:
            one.attempt(partial(_start, place, one, workload, opened))
        for step in (LoaderProcess.imported, LoaderProcess.open):  # imports share the cores, openings do not
            for one in seen:
                one.attempt(partial(_call, one, step))
        say(f"{sum(not one.failed for one in seen)} loaders take turns, {rounds} rounds")
        for one in seen:  # pages, pools, and what was made while it waited
            one.attempt(partial(_warm_up, one))
        in_turns({one.contender.name: partial(_turn, one, seconds) for one in seen}, rounds)
    return seen


def _prepare(place: Ground, one: Seen) -> None:
    one.disk_mib = place.prepare(one.contender)


def _start(place: Ground, one: Seen, workload: str, opened: ExitStack) -> None:
    contender = one.contender
    job = place.job(contender, workload, threads=one.threads)
    log = place.work / "logs" / f"{contender.name}, {workload}.log"
    one.process = opened.enter_context(
        closing(LoaderProcess(contender.adapter, job, python=contender.python(), log=log))
    )


def _call(one: Seen, step: Callable[[LoaderProcess], None]) -> None:
    assert one.process is not None
    step(one.process)


def _warm_up(one: Seen) -> None:
    assert one.process is not None
    one.process.turn(0.0)


def _turn(one: Seen, seconds: float) -> float:
    def turn() -> None:
        assert one.process is not None
        one.turns.append(one.process.turn(seconds))
        one.memory.append(one.process.memory_mib or 0.0)

    one.attempt(turn)
    return 0.0


def _figures(one: Seen, workload: str, some: list[Seen], control: float) -> LoaderFigures:
    contender, process = one.contender, one.process
    if one.failed or process is None:
        return LoaderFigures(name=contender.name, kind=contender.kind, workload=workload, failed=one.failed)
    limit = next(one for one in reversed(some) if one.contender.kind == "limit")
    default = next(one for one in some if one.contender.name == OURS)
    beside = None if contender.kind == "limit" else ratio(one.rates, default.rates)
    waits = [wait for turn in one.turns for wait in turn.epoch_waits_s]
    return LoaderFigures(
        name=contender.name,
        kind=contender.kind,
        workload=workload,
        contract=process.contract,
        threads=one.threads,
        versions=process.versions,
        images_per_s=spread(one.rates),
        of_limit=ratio(one.rates, limit.rates),
        of_ours=beside,
        tie=beside is not None and contender.name != OURS and is_tie(one.rates, default.rates, control),
        pixels=contender.pixels,
        first_batch_s=round(process.first_batch_s, 3),
        epoch_wait_ms=round(median(waits) * 1e3, 1) if waits else None,
        cpu_us=round(median(turn.cpu_seconds / turn.consumed for turn in one.turns) * 1e6, 1),
        memory_mib=max(one.memory) or None,
        gpu_mib=None if process.gpu_mib is None else round(process.gpu_mib, 1),
        disk_mib=one.disk_mib or None,
    )
