"""What a page says of a record: who is faster, what is a tie, what was not measured."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import plots
from benchmarks.contenders import AGAIN, OURS
from benchmarks.record import LoaderFigures, Point, Record, Sweep, read, write
from benchmarks.tables import throughput
from benchmarks.turns import Spread
from configs.errors import UserError


def figures(name: str, kind: str, rate: float, *, tie: bool = False) -> LoaderFigures:
    spread = Spread(median=rate, low=rate * 0.9, high=rate * 1.1)
    beside = Spread(median=rate / 1000, low=rate / 1100, high=rate / 900)
    return LoaderFigures(
        name=name, kind=kind, workload="full", contract="pixels", threads=2, images_per_s=spread, of_limit=beside,
        of_ours=None if kind == "limit" else beside, tie=tie, first_batch_s=0.5, cpu_us=100.0,
    )  # fmt: skip


OURS_TWICE = [figures(OURS, "ours", 1000), figures(AGAIN, "ours", 1010, tie=True)]
RECORD = Record(
    date="2026-01-01", device="a machine", cores=2, versions={"torch": "2"}, images=10, size=64, mean_jpeg_bytes=1000,
    config={"rounds": 3, "seconds": 1.0, "loader_batch_size": 8}, seconds=60.0, peak_host_mib=10.0,
    noise={"full": 0.05},
    costs={"order_us": 1.0, "params_us": 2.0, "meter_us": 3.0},
    loaders=[figures("bare", "limit", 2000), *OURS_TWICE, figures("slow peer", "peer", 500),
             LoaderFigures(name="no peer", kind="peer", workload="full", failed="it is not installed")],
)  # fmt: skip


def page(record: Record) -> str:
    return "\n".join(throughput(record, "plots"))


def test_a_page_says_that_no_peer_is_faster() -> None:
    text = page(RECORD)
    assert "No peer is faster." in text
    assert "| no peer | not measured: it is not installed |" in text
    assert text.index("**ours**") > text.index("| bare |"), "fastest first"


def test_a_faster_peer_is_named_and_a_tie_is_called_one() -> None:
    faster = page(replace(RECORD, loaders=[*RECORD.loaders, figures("fast peer", "peer", 1500)]))
    assert "Faster than ours: fast peer, 1.50 (1.36 to 1.67)." in faster
    pixels = replace(figures("raw peer", "peer", 1500), pixels=True, disk_mib=800.0)
    kept = replace(figures("ours, kept", "ours", 4000), pixels=True)
    why = page(replace(RECORD, loaders=[*RECORD.loaders, pixels, kept]))
    assert "raw peer, 1.50 (1.36 to 1.67): it reads pixels that were decoded before, 800 MiB on disk. What of" in why
    assert "decodes nothing either: ours, kept, 4.00" in why
    tie = page(replace(RECORD, loaders=[*RECORD.loaders, figures("close peer", "peer", 1020, tie=True)]))
    assert "No peer is faster; ties: close peer." in tie
    assert "1.02 (0.93 to 1.13), tie" in tie


def test_a_record_reads_back_as_it_was_written(tmp_path: Path) -> None:
    write(RECORD, tmp_path / "record.json")
    assert read(tmp_path / "record.json") == RECORD
    (tmp_path / "old.json").write_text('{"what": "older"}')
    with pytest.raises(UserError, match=r"old.json is no record of this version"):
        read(tmp_path / "old.json")


def test_pictures_are_drawn_of_what_the_record_has(tmp_path: Path) -> None:
    point = Point(x=1.0, y=Spread(median=2.0, low=1.0, high=3.0), memory_mib=5.0)
    sweep = Sweep(
        name="threads", x_label="threads", y_label="images/s", points=[point, replace(point, x=2.0)],
        intercept=2.0, slope=0.0, off=None, fitted=2, meaning="level",
    )  # fmt: skip
    plots.draw(replace(RECORD, scaling=[sweep]), tmp_path / "one")
    assert {path.name for path in tmp_path.iterdir()} == {"one_loaders.png", "one_scaling.png"}
    plots.draw(replace(RECORD, loaders=[]), tmp_path / "two")
    assert not (tmp_path / "two_loaders.png").exists()
