import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from configs.errors import UserError
from prep.check import check_set
from prep.manifest import MANIFEST, SAMPLES, read_manifest
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
    return [f"{row['shard']}: SHA-256 differs", f"{row['shard']}: sample {row['key']} at byte {row['offset']}: CRC-32"]


def in_a_vector(folder: Path) -> list[str]:
    row = first_sample(folder)
    content = (folder / row["shard"]).read_bytes()
    flip_byte(folder / row["shard"], content.index(b"\x93NUMPY", row["offset"]) + 128)
    return [f"{row['shard']}: SHA-256 differs", f"sample {row['key']} at byte {row['offset']}: its json, npy or cls"]


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
    return [f"{SAMPLES}: SHA-256 differs"]


@pytest.mark.parametrize("damage", [in_a_jpeg, in_a_vector, cut_short, gone, strange, other_table])
def test_damage_is_named(shards: Path, damage: Callable[[Path], list[str]]) -> None:
    wanted = damage(shards)
    found = check_set(shards, quick=False, workers=1)
    for line in wanted:
        assert any(line in each for each in found), (line, found)
    quick = check_set(shards, quick=True, workers=1)
    assert 1 <= len(quick) <= len(found)


def rewrite(folder: Path, change: Callable[[pd.DataFrame], None]) -> None:
    """Change samples.parquet and put its new hash into the manifest, as a tool that knows the format would."""
    import hashlib

    table = pq.read_table(folder / SAMPLES)
    rows = table.to_pandas()
    change(rows)
    columns = [list(map(np.asarray, rows[name])) if "meta" in name else rows[name] for name in table.column_names]
    changed = dict(zip(table.column_names, columns, strict=True))
    pq.write_table(type(table).from_pydict(changed, schema=table.schema), folder / SAMPLES)
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"][SAMPLES] = hashlib.sha256((folder / SAMPLES).read_bytes()).hexdigest()
    (folder / MANIFEST).write_text(json.dumps(manifest))


def test_a_group_in_two_folds_is_found(shards: Path) -> None:
    def leak(rows: pd.DataFrame) -> None:
        row = rows.index[rows["patient"].eq("IP_0000007")][0]
        rows.loc[row, "fold"] = (rows.loc[row, "fold"] + 1) % 3

    rewrite(shards, leak)
    assert check_set(shards, quick=True, workers=1) == []
    found = check_set(shards, quick=False, workers=1)
    assert any("1 groups span several folds, first IP_0000007" in line for line in found)
    assert any("keys, folds and targets differ from the manifest" in line for line in found)


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
