"""Tables of predictions: what is read is what was written, or nothing."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from configs.errors import UserError
from engine.tables import read_table, write_table

ROWS = 200


@pytest.fixture
def table() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    columns = {
        "key": [f"ISIC_{number:07d}" for number in range(ROWS)],
        "source": rng.choice(np.array([2019, 2020], dtype=np.int16), ROWS),
        "target": rng.integers(0, 2, ROWS, dtype=np.int8),
        "pred": rng.random(ROWS, dtype=np.float32),
        "flips": rng.random(ROWS) < 0.5,
    }
    frame = pd.DataFrame(columns)
    frame.loc[3, ["key", "pred"]] = None
    return frame


def test_what_is_read_is_what_was_written(table: pd.DataFrame, tmp_path: Path) -> None:
    path = tmp_path / "new" / "oof.parquet"
    write_table(table, path)
    for read in (read_table, pd.read_parquet):
        pd.testing.assert_frame_equal(read(path), table)


def test_no_bit_can_change_without_being_noticed(table: pd.DataFrame, tmp_path: Path) -> None:
    path = tmp_path / "oof.parquet"
    write_table(table, path)
    sound, rng, refused = path.read_bytes(), np.random.default_rng(1), 0
    places = range(len(sound) - 3000, len(sound), 3)  # the footer, which has no checksum of its own
    for place in [*places, *rng.integers(0, len(sound), 500)]:
        damaged = bytearray(sound)
        damaged[place] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        try:
            pd.testing.assert_frame_equal(read_table(path), table)
        except UserError:
            refused += 1
    assert refused > 500


@pytest.mark.parametrize("what", ["nothing", "a pipe", "cut short", "another table", "written by pandas"])
def test_what_is_no_such_table_is_refused(what: str, table: pd.DataFrame, tmp_path: Path) -> None:
    path = tmp_path / "oof.parquet"
    if what == "a pipe":
        os.mkfifo(path)
    elif what == "cut short":
        write_table(table, path)
        path.write_bytes(path.read_bytes()[:-100])
    elif what == "written by pandas":
        table.to_parquet(path)
    elif what == "another table":
        path.write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match=r"oof\.parquet is missing or damaged \(.+\): make it again"):
        read_table(path)
