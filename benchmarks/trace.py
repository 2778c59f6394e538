"""A trace of 20 training steps, with the loader's threads on it: open the file in https://ui.perfetto.dev."""

import gzip
import json
import os
import time
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.training import endless
from configs.schema import TrainConfig
from engine.distributed import Ranks
from engine.session import Session, open_session
from loaders.meter import Span

STEPS = 20
_WARM_UP = 3
_MARK = "clocks compared"


def trace(config: TrainConfig, ranks: Ranks, path: Path) -> None:
    """Train STEPS steps under torch's profiler, and write what it and the loader saw as one Chrome trace.

    In a session of its own, because what profiles may slow what is measured. A `path` that ends in .gz is compressed.
    """
    with open_session(config, ranks) as session:
        _write(session, path)


def _write(session: Session, path: Path) -> None:
    session.model.train()
    stream = endless(session)
    for _ in range(_WARM_UP):
        _traced_step(session, stream)
    activities = [ProfilerActivity.CPU]
    if session.ranks.device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    spans = session.loader.source.clock.record()
    with profile(activities=activities) as profiler:
        with record_function(_MARK):
            mark = time.perf_counter()
        for number in range(STEPS):
            with record_function(f"step {number}"):
                _traced_step(session, stream)
        if session.ranks.device.type == "cuda":
            torch.cuda.synchronize(session.ranks.device)
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = path.with_name(f".{path.name}.json")
    profiler.export_chrome_trace(str(plain))
    content = json.loads(plain.read_text())
    plain.unlink()
    content["traceEvents"] += _events(list(spans), content["traceEvents"], mark)
    text = json.dumps(content).encode()
    path.write_bytes(gzip.compress(text, 5) if path.suffix == ".gz" else text)


def _traced_step(session: Session, stream: Any) -> None:
    with record_function("wait for a batch"):
        batch = next(stream)
    session.begin_step()
    with record_function("forward and backward"):
        session.gradients(batch)
    with record_function("optimizer"):
        session.apply_gradients()


def _events(spans: list[Span], seen: list[dict[str, Any]], mark: float) -> list[dict[str, Any]]:
    """The spans on the profiler's clock, which read `ts` of the mark when ours read `mark`; and the threads' names."""
    offset = next(one["ts"] for one in seen if one.get("name") == _MARK and one.get("ph") == "X") - mark * 1e6
    pid = os.getpid()
    made: list[dict[str, Any]] = [
        {
            "ph": "X",
            "cat": "loader",
            "name": f"loader: {one.stage}",
            "pid": pid,
            "tid": one.thread,
            "ts": one.begin * 1e6 + offset,
            "dur": one.seconds * 1e6,
        }
        for one in spans
        if one.seconds
    ]
    names = {one.thread: one.name for one in spans if one.name != "MainThread"}
    return made + [
        {"ph": "M", "name": "thread_name", "pid": pid, "tid": thread, "args": {"name": name}}
        for thread, name in names.items()
    ]
