"""The lab on the smallest set: the verdict, the record, and what becomes of a loader that fails."""

import json
import time
from collections.abc import Iterator
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from benchmarks import limits, results, scaling, throughput, trace, training
from benchmarks.comparison import AGAIN, LIMIT, OURS, PEERS, Contender, setup
from benchmarks.process import LoaderProcess
from benchmarks.record import read
from benchmarks.rounds import spread
from configs.errors import UserError
from configs.schema import ModelConfig
from engine.prepare_step import blank_batch
from loaders.batch import Batch
from loaders.shards import ShardSet
from models.fusion import build_model

ROOT = Path(__file__).resolve().parents[2]


def test_a_turn_gives_the_images_a_second_after_its_margin(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    batch = blank_batch(8, 8, 9, torch.device("cpu"))
    made = []

    def stream() -> Iterator[Batch]:
        for waited in chain([5.0] * 2, repeat(0.25)):
            clock[0] += waited
            made.append(waited)
            yield batch

    def step(_: Batch) -> None:
        clock[0] += 0.15

    way = training.Feeding(stream, step, torch.device("cpu"), seconds=4.0, margin=2)
    assert way() == pytest.approx(8 / 0.4)
    assert way.steps == 10, "as many as the first turn says that the seconds take"
    made.clear()
    assert way() == pytest.approx(8 / 0.4)
    assert len(made) == 12


@pytest.fixture(scope="module")
def lab(shard_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with one peer that works, one that is not installed, and one whose process dies."""
    folder = tmp_path_factory.mktemp("lab")
    peers = (
        next(peer for peer in PEERS if peer.name == "torch DataLoader, simplejpeg"),
        Contender("absent", "ffcv_loader", environment="no such", quick=True),
        Contender("broken", "no_such_adapter", quick=True),
    )
    words = ["--shards", str(shard_folder), "--backbone", "test_resnet.r160_in1k", "--batch-size", "8"]
    words += ["--device", "cpu"]
    words += ["--loader-batch-size", "8", "--rounds", "2", "--seconds", "0.05", "--work", str(folder / "work")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benchmarks.comparison.PEERS", peers)
        throughput.main([*words, "--trace", str(folder / "trace.json"), "--out", str(folder / "record.json")])
    return folder


def test_the_record_has_every_part_and_reads_back(lab: Path) -> None:
    found = read(lab / "record.json")
    assert set(found["training"]["images_per_s"]) == {"loader", "resident", "replayed", "real"}
    assert found["noise"]["full"] > 0
    assert {"matrix_tflops", "memory_gb_per_s"} <= set(found["limits"])
    assert all(limit["median"] > 0 for limit in found["limits"].values())
    assert found["training"]["of_matrix_product"] > 0
    by_name = {loader["name"]: loader for loader in found["loaders"]}
    ours, again, limit = (by_name[name] for name in (OURS, AGAIN, LIMIT.name))
    assert ours["of_ours"]["median"] == limit["of_limit"]["median"] == 1.0
    assert again["versions"] == ours["versions"]
    assert by_name["torch DataLoader, simplejpeg"]["memory_mib"]
    assert by_name["torch DataLoader, simplejpeg"]["versions"]["torch"] == torch.__version__
    assert str(lab) not in (lab / "record.json").read_text(), "no path of this machine"
    said = "\n".join(results.throughput(found))
    assert f"> {found['training']['verdict']}" in said
    assert "ours, measured again" in said


def test_what_was_measured_is_kept_where_our_own_loader_fails(
    shard_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any, **__: Any) -> Any:
        raise UserError("ours: no answer within 180 s")

    def trained(_: Any, __: Any, parts: dict[str, Any]) -> None:
        parts["limits"] = {"matrix_tflops": spread([1.0])}

    monkeypatch.setattr("benchmarks.throughput.compared", failing)
    monkeypatch.setattr("benchmarks.throughput._measure_training", trained)
    words = ["--shards", str(shard_folder), "--device", "cpu", "--work", str(tmp_path / "work")]
    with pytest.raises(UserError, match=r"no answer within 180 s; what was measured before is kept in .*record.json"):
        throughput.main([*words, "--out", str(tmp_path / "record.json")])
    found = read(tmp_path / "record.json")
    assert found["limits"] == {"matrix_tflops": spread([1.0])}
    assert found["failed"] == "ours: no answer within 180 s"
    assert "loaders" not in found


def test_a_peer_without_figures_says_why(lab: Path) -> None:
    failed = {each["name"]: each["failed"] for each in read(lab / "record.json")["loaders"] if each["failed"]}
    assert failed["absent"] == "it is not installed (benchmarks/peers/install.sh no such)"
    assert "no_such_adapter" in failed["broken"]
    assert set(failed) == {"absent", "broken"}


def test_a_trace_has_twenty_steps_and_the_loaders_threads(lab: Path) -> None:
    events = json.loads((lab / "trace.json").read_text())["traceEvents"]
    steps = [event for event in events if str(event.get("name")).startswith("step ") and event.get("ph") == "X"]
    assert len(steps) == trace.STEPS
    begin, end = min(event["ts"] for event in steps), max(event["ts"] + event["dur"] for event in steps)
    spans = [event for event in events if event.get("cat") == "loader"]
    assert {event["name"] for event in spans} >= {"loader: read", "loader: decode", "loader: augment"}
    assert all(begin - 1e6 < event["ts"] < end for event in spans)
    assert any(begin < event["ts"] and event["ts"] + event["dur"] < end for event in spans)
    named = {
        event["tid"] for event in events if event.get("name") == "thread_name" and "renderer" in event["args"]["name"]
    }
    assert {event["tid"] for event in spans if event["name"] == "loader: decode"} <= named
    assert steps[0]["tid"] not in named


def states(pids: list[int]) -> list[str]:
    return [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] for pid in pids]


def test_a_loader_is_still_between_its_turns_and_gone_afterwards(shard_folder: Path, tmp_path: Path) -> None:
    place = setup(shard_folder, tmp_path, size=64, device="cpu", batch_size=8, threads=2)
    peer = next(peer for peer in PEERS if peer.name == "torch DataLoader, simplejpeg")
    process = LoaderProcess(peer.adapter, peer.job(place, "flips"), log=tmp_path / "log")
    process.imported()
    process.open()
    assert process.run(0.05)["rate"] > 0
    pids = [int(path.name) for path in process.processes()]
    assert len(pids) == 3, "itself and two workers"
    deadline = time.monotonic() + 10
    while states(pids) != ["T"] * 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert states(pids) == ["T"] * 3
    process.close()
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_the_operations_of_a_model_are_the_published_ones() -> None:
    model = build_model("efficientnet_b1", ModelConfig(), size=240, meta_features=11, weights="none")
    gflop = limits.forward_gflop(model, torch.zeros(1, 240, 240, 3, dtype=torch.uint8), torch.zeros(1, 11))
    # timm's published table, for the backbone with its classifier: 0.71 GMACs.
    assert gflop / 2 == pytest.approx(0.71, rel=0.08)
    assert model.training


@pytest.mark.long
def test_sweeps_measure_every_point(shard_folder: Path, tmp_path: Path) -> None:
    place = setup(shard_folder, tmp_path, size=64, device="cpu", batch_size=8, threads=2)
    sizes = scaling.Sizes(threads=(1,), ranks=(2,), batch=(2, 4), samples=(200, 500))
    found = scaling.sweeps(place, sizes, rounds=1, seconds=0.02, say=lambda _: None)
    assert [sweep["name"] for sweep in found] == ["threads", "ranks", "batch", "samples"]
    assert [[point["x"] for point in sweep["points"]] for sweep in found] == [[1], [2], [2, 4], [200, 500]]
    assert all(point["y"]["median"] > 0 and point["memory_mib"] for sweep in found for point in sweep["points"])
    large, small = ShardSet(tmp_path / place.own.name / "repeated500"), ShardSet(shard_folder)
    rows = pq.read_table(shard_folder / "samples.parquet")["fold"].to_numpy()
    assert len(large) == 500
    kept = np.flatnonzero(rows[: len(small)] >= 0)
    assert bytes(large.jpeg(499)) == bytes(small.jpeg(int(kept[499 % len(kept)])))
