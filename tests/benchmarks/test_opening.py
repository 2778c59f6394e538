"""What opening costs is measured on real ranks."""

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
        held = bytearray(50_000_000)
        held[::4096] = b"x" * len(held[::4096])
        while memory.most < 40_000_000:
            pass
        assert 45_000_000 < memory.added() < 80_000_000
    assert len(held) == 50_000_000
