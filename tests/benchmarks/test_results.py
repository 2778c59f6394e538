"""What a page says of a record: who is faster, what is a tie, what was not measured."""

from pathlib import Path

import pytest

from benchmarks.comparison import AGAIN, OURS
from benchmarks.record import Record, read, write
from benchmarks.results import draw_loaders, throughput
from configs.errors import UserError


def figures(name: str, kind: str, rate: float, *, tie: bool = False, pixels: bool = False) -> Record:
    spread = {"median": rate, "low": rate * 0.9, "high": rate * 1.1}
    beside = {"median": rate / 1000, "low": rate / 1100, "high": rate / 900}
    return {
        "name": name, "kind": kind, "workload": "full", "failed": "", "contract": "pixels", "images_per_s": spread,
        "of_limit": beside, "of_ours": beside, "tie": tie, "pixels": pixels, "first_batch_s": 0.5, "cpu_us": 100.0,
        "epoch_wait_ms": None, "memory_mib": 5.0, "disk_mib": None,
    }  # fmt: skip


OURS_TWICE = [figures(OURS, "ours", 1000), figures(AGAIN, "ours", 1010, tie=True)]
RECORD: Record = {
    "date": "2026-01-01", "device": "a machine", "versions": {"torch": "2"}, "images": 10, "size": 64,
    "mean_jpeg_bytes": 1000, "config": {"rounds": 3, "seconds": 1.0, "loader_batch_size": 8}, "seconds": 60.0,
    "failed": "", "noise": {"full": 0.05},
    "loaders": [figures("bare", "limit", 2000), *OURS_TWICE, figures("slow peer", "peer", 500),
                {"name": "no peer", "kind": "peer", "workload": "full", "failed": "it is not installed"}],
}  # fmt: skip


def page(record: Record) -> str:
    return "\n".join(throughput(record, "loaders.png"))


def test_loaders_stand_fastest_first_with_ties_and_what_decodes_nothing() -> None:
    pixels = figures("raw peer", "peer", 1500, pixels=True)
    tie = figures("close peer", "peer", 1020, tie=True)
    text = page({**RECORD, "loaders": [*RECORD["loaders"], pixels, tie]})
    names = [
        "bare",
        "raw peer (decodes nothing)",
        "close peer (tie)",
        f"{AGAIN} (tie)",
        "**ours**",
        "slow peer",
        "no peer",
    ]
    places = [text.index(f"| {name} |") for name in names]
    assert places == sorted(places)
    assert "| raw peer (decodes nothing) | 1,500 (1,350 to 1,650) | 1.50 (1.36 to 1.67) | 1.50 (1.36 to 1.67) |" in text
    assert "| no peer | not measured: it is not installed |" in text


SWEEP: Record = {
    "name": "threads",
    "points": [
        {"x": float(x), "y": {"median": y, "low": y - 1, "high": y + 1}, "memory_mib": 5.0, "open_s": 0.5}
        for x, y in ((1, 10.0), (2, 21.0), (4, 38.0), (8, 40.0))
    ],
}  # fmt: skip


def test_every_point_of_a_sweep_is_shown() -> None:
    text = page({**RECORD, "scaling": [SWEEP]})
    assert [f"| {x} threads | {y} (" in text for x, y in ((1, "10.0"), (2, "21.0"), (4, "38.0"), (8, "40.0"))] == [
        True
    ] * 4
    assert "(39.0 to 41.0) images/s | 5.00 | 0.500 |" in text


def test_a_record_reads_back_as_it_was_written(tmp_path: Path) -> None:
    record = {**RECORD, "scaling": [SWEEP]}
    assert write(tmp_path / "record.json", record) == record
    assert read(tmp_path / "record.json") == record
    (tmp_path / "old.json").write_text('{"what": "older"}')
    with pytest.raises(UserError, match=r"old.json is no record of this version"):
        read(tmp_path / "old.json")


def test_loaders_are_drawn_of_one_workload_or_of_both(tmp_path: Path) -> None:
    draw_loaders(RECORD, tmp_path / "one.png")
    flips = [{**loader, "workload": "flips"} for loader in RECORD["loaders"][:3]]
    draw_loaders({**RECORD, "loaders": [*RECORD["loaders"], *flips]}, tmp_path / "both.png")
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in tmp_path.iterdir())
