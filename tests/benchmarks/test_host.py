"""The host's own time: the loop that is measured is train.py's, and the record has a line for every way to feed it."""

import inspect
from pathlib import Path

import torch

import train
from benchmarks import host
from benchmarks.record import read
from loaders.placement import available_placements


def lines_of_loop(function: object) -> list[str]:
    """From the epoch's progress on, without comments and returns."""
    lines = [line.split("#")[0].strip() for line in inspect.getsource(function).splitlines()]  # type: ignore[arg-type]
    loop = lines[next(number for number, line in enumerate(lines) if "epoch_progress" in line) :]
    return [line.removeprefix("return ") for line in loop if line]


def test_the_loop_is_that_of_train() -> None:
    assert lines_of_loop(host.epoch) == lines_of_loop(train.train_epoch)
    assert len(lines_of_loop(host.epoch)) == 7


def test_a_record_says_what_each_way_takes_of_a_step(shard_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "host.json"
    words = ["--batch-size=16", "--steps=4", "--rounds=2", "--device=cpu", f"--shards={shard_folder}", f"--out={out}"]
    host.main(words)
    record = read(out)
    ways = ["bare", "loop", *(f"loop, fed by {name}" for name in available_placements(torch.device("cpu")))]
    assert list(record["us_per_image"]) == ways
    shares = record["share_of_a_step_at_20000_images_per_s"]
    for name, found in record["us_per_image"].items():
        assert 0 < found["low"] <= found["median"] <= found["high"]
        assert abs(shares[name]["median"] / found["median"] - 0.02) < 1e-4
    assert record["all_within"] == all(found["median"] <= record["allowed_share"] for found in shares.values())
