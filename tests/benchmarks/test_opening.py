"""What opening costs is measured on real ranks."""

import time
from pathlib import Path

from benchmarks.opening import Memory, main
from benchmarks.record import read


def test_two_ranks_open_a_repeated_set(shard_folder: Path, tmp_path: Path) -> None:
    words = ["--shards", str(shard_folder), "--samples", "20000", "--shard_files", "100", "--rounds", "1"]
    main([*words, "--out", str(tmp_path / "opening.json")])
    record = read(tmp_path / "opening.json")
    assert (record["samples"], record["ranks"]) == (20_000, 2)
    assert record["open_s"] > 0
    assert record["most_bytes"] >= record["open_bytes"]
    assert record["ordered_bytes"] > 8, "rows and order are 8 bytes each for two thirds of the samples"


def test_memory_counts_what_is_allocated() -> None:
    with Memory() as memory:
        held = bytearray(200_000_000)
        held[::4096] = b"x" * len(held[::4096])
        end = time.monotonic() + 30
        while memory.most < 150_000_000 and time.monotonic() < end:
            time.sleep(0.01)
        # What earlier tests have freed may go back to the system meanwhile.
        assert 150_000_000 < memory.added() < 250_000_000
        assert memory.most > 150_000_000
    assert len(held) == 200_000_000
