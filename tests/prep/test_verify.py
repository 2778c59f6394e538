import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sets import change_samples, with_value, within

from configs.errors import UserError
from prep.check import check_set
from prep.manifest import SAMPLES, read_manifest
from prep.verify import main

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def shards(shard_folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(shard_folder, tmp_path / "set")


def first_sample(folder: Path) -> pd.Series:
    return pd.read_parquet(folder / SAMPLES).iloc[3]


def flip_byte(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 0xFF
    path.write_bytes(bytes(content))


def in_a_jpeg(folder: Path) -> list[str]:
    row = first_sample(folder)
    flip_byte(folder / row["shard"], row["offset"] + row["length"] // 2)
    return [
        f"{row['shard']}: SHA-256 is not the one in manifest.json",
        f"{row['shard']}: sample {row['key']} at byte {row['offset']}: CRC-32",
    ]


def in_a_vector(folder: Path) -> list[str]:
    row = first_sample(folder)
    content = (folder / row["shard"]).read_bytes()
    flip_byte(folder / row["shard"], content.index(b"\x93NUMPY", row["offset"]) + 128)
    return [
        f"{row['shard']}: SHA-256 is not the one in manifest.json",
        f"sample {row['key']} at byte {row['offset']}: its json, npy or cls",
    ]


def cut_short(folder: Path) -> list[str]:
    entry = read_manifest(folder).shards[-1]
    content = (folder / entry.file).read_bytes()
    (folder / entry.file).write_bytes(content[: len(content) // 2])
    return [f"{entry.file}: {len(content) // 2:,} bytes, the manifest says {len(content):,}", "CRC-32 differs"]


def gone(folder: Path) -> list[str]:
    entry = read_manifest(folder).shards[1]
    (folder / entry.file).unlink()
    (folder / entry.file).with_suffix(".idx").unlink()
    return [f"{entry.file}: missing", f"{Path(entry.file).with_suffix('.idx')}: missing"]


def strange(folder: Path) -> list[str]:
    (folder / "notes.md").write_text("mine")
    return ["notes.md: not in the manifest"]


def other_table(folder: Path) -> list[str]:
    flip_byte(folder / SAMPLES, 2000)
    return [f"{SAMPLES}: SHA-256 is not the one in manifest.json"]


def hostile_sizes(folder: Path) -> list[str]:
    """The size of a file in a tar, in base 256 as GNU's tar has it: negative, or beyond all memory."""
    entries = read_manifest(folder).shards[:3]
    for entry, field in zip(
        entries, (b"\xff" * 11 + b"\0", b"\xff" * 10 + b"\xfe\0", b"\x80" + b"\x7f" * 11), strict=True
    ):
        content = bytearray((folder / entry.file).read_bytes())
        content[124:136], content[148:156] = field, b" " * 8
        content[148:156] = b"%06o\0 " % sum(content[:512])
        (folder / entry.file).write_bytes(content)
    return [f"{entry.file}: not a complete tar: byte 0 does not begin" for entry in entries]


@pytest.mark.parametrize("damage", [in_a_jpeg, in_a_vector, cut_short, gone, strange, other_table, hostile_sizes])
def test_damage_is_named(shards: Path, damage: Callable[[Path], list[str]]) -> None:
    wanted = damage(shards)
    with within(60):
        found = check_set(shards, quick=False, workers=1)
    for line in wanted:
        assert any(line in each for each in found), (line, found)
    quick = check_set(shards, quick=True, workers=1)
    assert 1 <= len(quick) <= len(found)


def test_a_group_in_two_folds_is_found(shards: Path) -> None:
    def leak(table: pa.Table) -> pa.Table:
        return with_value(table, "fold", row, (fold + 1) % 3)

    table = pq.read_table(shards / SAMPLES)
    groups = table["group"].to_pylist()
    row = next(row for row, group in enumerate(groups) if groups.count(group) == 2)
    fold = table["fold"][row].as_py()
    change_samples(shards, leak)
    assert check_set(shards, quick=True, workers=1) == []
    found = check_set(shards, quick=False, workers=1)
    assert any(f"1 groups span several folds, first {groups[row]}" in line for line in found)
    assert any("its counts by source, split, fold and target differ from the manifest" in line for line in found)


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("offset", None, "column offset has no value in 1 kept rows"),
        ("offset", -5, "is -5, wanted a place within its shard"),
        ("meta_clinical", [np.nan] * 11, "is nan, wanted a finite number"),
    ],
)
def test_a_table_that_cannot_be_opened_is_one_line(shards: Path, column: str, value: object, said: str) -> None:
    change_samples(shards, lambda table: with_value(table, column, 3, value))
    (line,) = check_set(shards, quick=False, workers=1)
    assert line.startswith(f"{SAMPLES}: column {column}")
    assert said in line


def test_the_command_says_what_was_checked_and_found_sound(shards: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(shards), "--workers", "1"])
    assert capsys.readouterr() == (f"{shards}: sound (hashes, every sample, folds)\n", "")
    main(["--shards", str(shards), "--quick", "--workers", "1"])
    assert capsys.readouterr() == (f"{shards}: sound (hashes)\n", "")
    with pytest.raises(UserError, match="holds no shard set"):
        main([str(shards / "nowhere")])


def test_the_command_lists_damage_and_exits_with_one(shards: Path) -> None:
    wanted = in_a_jpeg(shards)
    damaged = subprocess.run(
        [sys.executable, "prep/verify.py", str(shards), "--workers", "1"], cwd=ROOT, capture_output=True, text=True
    )
    assert (damaged.returncode, damaged.stdout) == (1, "")
    assert all(line in damaged.stderr for line in wanted)
    assert "2 problems" in damaged.stderr.splitlines()[-1]
