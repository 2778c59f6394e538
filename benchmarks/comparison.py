"""The loaders side by side: every one in turn, each workload, as multiples of bare decoding and of ours."""

from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import median

from benchmarks.contenders import AGAIN, LIMIT, OURS, PEERS, Contender, Peers, Setup, ours
from benchmarks.process import LoaderProcess, Round
from benchmarks.record import LoaderFigures
from benchmarks.rounds import in_turns, is_tie, noise, ratios, spread
from configs.errors import UserError


@dataclass
class Measurement:
    """A contender on one workload, and what its rounds gave; `failed` says why it takes no more of them."""

    contender: Contender
    workload: str
    failed: str = ""
    disk_mib: float | None = None
    process: LoaderProcess = field(init=False)
    rounds: list[Round] = field(default_factory=list)

    @property
    def rates(self) -> list[float]:
        """Images/s, a figure for each round."""
        return [each.rate for each in self.rounds]

    def start(self, setup: Setup, opened: ExitStack) -> None:
        """Write what it reads, and let its process import."""
        self.disk_mib = setup.prepare(self.contender)
        log, job = f"{self.contender.name}, {self.workload}.log", setup.job(self.contender, self.workload)
        adapter, python = self.contender.adapter, self.contender.python()
        self.process = LoaderProcess(adapter, job, python=python, log=setup.work / "logs" / log)
        opened.enter_context(closing(self.process))

    def attempt(self, step: "Callable[[Measurement], object]") -> float:
        """Take a step unless one failed before; only what all others are compared with may not fail."""
        if not self.failed:
            try:
                step(self)
            except UserError as error:
                if self.contender.name in (LIMIT.name, OURS, AGAIN):
                    raise
                self.failed = str(error)
                if hasattr(self, "process"):  # it must not go on beside the others
                    self.process.close()
        return 0.0


def compared(
    setup: Setup, *, peers: Peers, workloads: tuple[str, ...], rounds: int, seconds: float, say: Callable[[str], None]
) -> tuple[list[LoaderFigures], dict[str, float]]:
    """Figures of every contender on each workload, and each workload's A/A control.

    One workload after the other: memory must hold all that take turns. Raises UserError where ours fails.
    """
    figures: list[LoaderFigures] = []
    controls: dict[str, float] = {}
    for workload in workloads:
        chosen = [peer for peer in PEERS if peers == "all" or peer.quick]
        found = [Measurement(contender, workload) for contender in (LIMIT, *ours(setup.common.device, peers), *chosen)]
        say(f"starting {len(found)} loaders: {workload}")
        with ExitStack() as opened:
            steps: tuple[Callable[[Measurement], object], ...] = (
                partial(Measurement.start, setup=setup, opened=opened),
                lambda each: each.process.imported(),  # imports share the cores, openings do not
                lambda each: each.process.open(),
                lambda each: each.process.run(0.0),  # pages, pools, and what was made while it waited
            )
            for step in steps:
                for each in found:
                    each.attempt(step)
            say(f"{sum(not each.failed for each in found)} loaders take turns, {rounds} rounds")
            in_turns({each.contender.name: partial(each.attempt, _round(seconds)) for each in found}, rounds)
        by_name = {each.contender.name: each for each in found}
        controls[workload] = noise(by_name[OURS].rates, by_name[AGAIN].rates)
        beside = by_name[LIMIT.name].rates, by_name[OURS].rates, controls[workload]
        figures += [_figures(each, *beside) for each in found]
    return figures, controls


def _round(seconds: float) -> Callable[[Measurement], None]:
    return lambda each: each.rounds.append(each.process.run(seconds))


def _figures(found: Measurement, limit: list[float], default: list[float], control: float) -> LoaderFigures:
    contender, rates = found.contender, found.rates
    figures = LoaderFigures(
        name=contender.name, kind=contender.kind, workload=found.workload, failed=found.failed, pixels=contender.pixels
    )
    if found.failed:
        return figures
    ready, waits = found.process.ready, [wait for each in found.rounds for wait in each.epoch_waits_s]
    return replace(
        figures,
        contract=ready["contract"],
        versions=ready["versions"],
        images_per_s=spread(rates),
        of_limit=spread(ratios(rates, limit)),
        of_ours=None if contender is LIMIT else spread(ratios(rates, default)),
        tie=contender.name != OURS and contender is not LIMIT and is_tie(rates, default, control),
        first_batch_s=round(ready["first_batch_s"], 3),
        epoch_wait_ms=round(median(waits) * 1e3, 1) if waits else None,
        cpu_us=round(median(each.cpu_seconds / each.consumed for each in found.rounds) * 1e6, 1),
        memory_mib=max(each.memory_mib for each in found.rounds),
        disk_mib=found.disk_mib,
    )
