import re
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from loaders.meter import GpuIdle, LoadReport, StageClock, WaitMeter


def test_time_in_the_iterator_is_waiting_and_time_between_is_work(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    waits = [1.0, 1.0, 1.0, 5.0]

    def slow_source() -> Iterator[int]:
        for item, seconds in enumerate(waits):
            clock[0] += seconds
            yield item

    meter = WaitMeter()
    seen = []
    for item in meter.over(slow_source()):
        seen.append(item)
        clock[0] += 3.0
    report = meter.report(StageClock())
    assert seen == [0, 1, 2, 3]
    assert meter.waiting == report.waiting == pytest.approx(8 / 20)
    np.testing.assert_allclose(report.wait_ms, np.percentile(waits, (50, 95, 99)) * 1e3)
    assert report.steps == 4
    assert report.gpu_idle is None


def test_stages_are_added_up_over_threads_and_told_apart_by_stretch() -> None:
    clock = StageClock()
    clock.add(read=1.0)
    clock.batch(10, 1)
    before = clock.copy()
    threads = [threading.Thread(target=clock.add, kwargs={"decode": 0.5}) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    clock.batch(100, 2)
    clock.batch(100, 1)
    report = WaitMeter().report(clock.since(before))
    assert report.stage_us == {"read": 0.0, "decode": pytest.approx(4.0 / 200 * 1e6), "augment": 0.0, "copy": 0.0}
    assert report.ready == 1.5


def test_a_recording_keeps_when_and_where_each_stage_was() -> None:
    clock = StageClock()
    clock.add(read=5.0)
    spans = clock.record()
    before = time.perf_counter()
    thread = threading.Thread(target=clock.add, kwargs={"read": 0.25, "decode": 0.5}, name="renderer")
    thread.start()
    thread.join()
    assert [(span.stage, span.name, span.seconds) for span in spans] == [
        ("read", "renderer", 0.25),
        ("decode", "renderer", 0.5),
    ]
    read, decode = spans
    assert decode.begin == pytest.approx(read.begin + read.seconds)
    assert before <= decode.begin + decode.seconds <= time.perf_counter()
    assert read.thread == decode.thread == thread.native_id


def report(waiting: float, stage: str, gpu_idle: float | None = None) -> LoadReport:
    stages = {"read": 1.0, "decode": 1.0, "augment": 1.0, "copy": 1.0} | {stage: 300.0}
    return LoadReport(steps=9, waiting=waiting, wait_ms=(1.0, 2.5, 3.0), stage_us=stages, ready=1.0, gpu_idle=gpu_idle)


@pytest.mark.parametrize(
    ("fed", "placement", "cache", "on_gpu", "said"),
    [
        (report(0.01, "decode"), "host", "none", False, "data kept up: 1% .* the training step bounds this run"),
        (report(0.4, "decode"), "host", "none", False, "data bounds this run: 40% .* decode .* --loader.cache ram"),
        (report(0.4, "copy", 0.3), "dali-gpu", "ram", True, "copy .* --loader.cache gpu"),
        (report(0.4, "decode", 0.3), "dali-gpu", "none", True, "GPU idled 30%.* --loader.cache gpu"),
        (report(0.4, "decode", 0.01), "dali-gpu", "none", True, "data kept up"),
        (report(0.4, "augment", 0.3), "host", "ram", True, "augment .* --loader.placement dali-gpu"),
        (report(0.4, "augment"), "host", "ram", False, r"augment .*\(--loader.threads\)"),
        (report(0.4, "read"), "host", "none", False, "read .* local disk"),
    ],
)
def test_the_verdict_names_what_bounds_the_run_and_the_remedy(
    fed: LoadReport, placement: str, cache: str, on_gpu: bool, said: str
) -> None:
    line = fed.verdict(placement=placement, cache=cache, on_gpu=on_gpu)
    assert "\n" not in line
    assert re.search(said, line), line


@pytest.mark.gpu
def test_a_gpu_that_waits_for_the_host_is_seen_to_idle() -> None:
    work = torch.randn(4096, 4096, device="cuda")
    shares = []
    for pause in (0.0, 0.05):
        idle = GpuIdle()
        for _ in range(20):
            time.sleep(pause)
            idle.step_begins()
            for _ in range(8):
                work @ work
            idle.step_ends()
            if pause:
                torch.cuda.synchronize()
        shares.append(idle.share())
    assert shares[0] < 0.2 < 0.5 < shares[1]
