"""A trace of 20 training steps, with the loader's threads on it: open the file in https://ui.perfetto.dev."""

import gzip
import json
import os
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from engine.run import Run
from loaders.meter import Span

STEPS = 20
_WARM_UP = 3
_MARK = "clocks compared"


def trace(run: Run, path: Path) -> None:
    """Train STEPS steps under torch's profiler, and write what it and the loader saw as one Chrome trace.

    In a run of its own, because what profiles may slow what is measured. A `path` that ends in .gz is compressed.
    """
    stream = run.data.stream
    run.trainer.model.train()
    for batch in islice(stream, _WARM_UP):
        run.trainer.step(batch)
    on_gpu = run.ranks.device.type == "cuda"
    spans = run.data.loader.clock.record()
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as profiler:
        with record_function(_MARK):
            mark = time.perf_counter()
        for number in range(STEPS):
            with record_function(f"step {number}"):
                with record_function("wait for a batch"):
                    batch = next(stream)
                run.trainer.step(batch)
        if on_gpu:
            torch.cuda.synchronize(run.ranks.device)
    seen = spans.copy()
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = path.with_name(f".{path.name}.json")
    profiler.export_chrome_trace(str(plain))
    content = json.loads(plain.read_text())
    plain.unlink()
    content["traceEvents"] += _events(seen, content["traceEvents"], mark)
    text = json.dumps(content).encode()
    path.write_bytes(gzip.compress(text, 5) if path.suffix == ".gz" else text)


def _events(spans: list[Span], others: list[dict[str, Any]], mark: float) -> Iterator[dict[str, Any]]:
    """The spans on the profiler's clock, which read `ts` of the mark when ours read `mark`; and the threads' names."""
    offset = next(event["ts"] for event in others if event.get("name") == _MARK and event.get("ph") == "X") - mark * 1e6
    for span in spans:
        where = {"pid": os.getpid(), "tid": span.thread}
        when = {"ts": span.begin * 1e6 + offset, "dur": span.seconds * 1e6}
        yield {"ph": "X", "cat": "loader", "name": f"loader: {span.stage}", **where, **when}
    for thread, name in {span.thread: span.name for span in spans if span.name != "MainThread"}.items():
        yield {"ph": "M", "name": "thread_name", "pid": os.getpid(), "tid": thread, "args": {"name": name}}
