"""The loaders side by side: every one in turn, each workload, as multiples of bare decoding and of ours."""

from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import Any

from benchmarks.contenders import AGAIN, LIMIT, OURS, Contender, Peers, contenders
from benchmarks.peers.job import Job
from benchmarks.process import LoaderProcess, Round
from benchmarks.record import Record
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

    def start(self, common: Job, opened: ExitStack) -> None:
        """Write what it reads, and let its process import."""
        loader = self.contender
        self.disk_mib = loader.prepare(common)
        log, job = common.own / "logs" / f"{loader.name}, {self.workload}.log", loader.job(common, self.workload)
        self.process = LoaderProcess(loader.adapter, job, python=loader.python(), log=log)
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
    common: Job, *, peers: Peers, workloads: tuple[str, ...], rounds: int, seconds: float, say: Callable[[str], None]
) -> tuple[list[Record], dict[str, float]]:
    """Figures of every contender on each workload, and each workload's A/A control.

    One workload after the other: memory must hold all that take turns. Raises UserError where ours fails.
    """
    figures: list[Record] = []
    controls: dict[str, float] = {}
    for workload in workloads:
        found = [Measurement(contender, workload) for contender in contenders(common.device, peers)]
        say(f"{workload}: {len(found)} loaders, {rounds} rounds")
        _measure(found, common, rounds, seconds)
        rates = {each.contender.name: [each_round["rate"] for each_round in each.rounds] for each in found}
        controls[workload] = noise(rates[OURS], rates[AGAIN])
        figures += [_figures(each, rates, controls[workload]) for each in found]
    return figures, controls


def _measure(found: list[Measurement], common: Job, rounds: int, seconds: float) -> None:
    with ExitStack() as opened:
        steps: tuple[Callable[[Measurement], object], ...] = (
            lambda each: each.start(common, opened),
            lambda each: each.process.imported(),  # imports share the cores, openings do not
            lambda each: each.process.open(),
            lambda each: each.process.run(0.0),  # pages, pools, and what was made while it waited
        )
        for step in steps:
            for each in found:
                each.attempt(step)
        turn: Callable[[Measurement], object] = lambda each: each.rounds.append(each.process.run(seconds))  # noqa: E731
        in_turns({each.contender.name: partial(each.attempt, turn) for each in found}, rounds)


def _figures(found: Measurement, rates: dict[str, list[float]], control: float) -> dict[str, Any]:
    """One loader of a record.

    kind: limit is bare decoding; contract: what its batches hold; of_limit, of_ours: multiples of bare decoding and of
    our default, in the same rounds; tie: with our default; pixels: whether it reads stored pixels and decodes nothing;
    epoch_wait_ms: median wait for an epoch's first batch; cpu_us: CPU time per image, and memory_mib: of all its
    processes; disk_mib: what it reads. Without figures where it failed.
    """
    contender, rounds = found.contender, found.rounds
    figures = {"name": contender.name, "kind": contender.kind, "workload": found.workload, "failed": found.failed}
    if found.failed:
        return figures
    own, ready = rates[contender.name], found.process.ready
    waits = [wait for each in rounds for wait in each["epoch_waits_s"]]
    return figures | {
        "pixels": contender.pixels,
        "contract": ready["contract"],
        "versions": ready["versions"],
        "images_per_s": spread(own),
        "of_limit": spread(ratios(own, rates[LIMIT.name])),
        "of_ours": spread(ratios(own, rates[OURS])),
        "tie": contender.name not in (OURS, LIMIT.name) and is_tie(own, rates[OURS], control),
        "first_batch_s": round(ready["first_batch_s"], 3),
        "epoch_wait_ms": round(median(waits) * 1e3, 1) if waits else None,
        "cpu_us": round(median(each["cpu_us"] for each in rounds), 1),
        "memory_mib": max(each["memory_mib"] for each in rounds),
        "disk_mib": found.disk_mib,
    }
