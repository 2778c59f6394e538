"""What a manifest says of the labels."""

import hashlib

import numpy as np
import pandas as pd
import pytest

from prep.manifest import count_rows, kept_table, labels_digest


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    """2,000 rows in a random order, some of them left out, test rows among them, one key beyond ASCII."""
    draws = np.random.default_rng(0)
    split = draws.choice(["train", "train", "test"], 2000)
    train = split == "train"
    return pd.DataFrame(
        {
            "key": ["ISIC_é" if number == 7 else f"ISIC_{number:07d}" for number in draws.permutation(2000)],
            "source": draws.choice([2019, 2020], 2000).astype("int16"),
            "split": split,
            "fold": np.where(train, draws.integers(0, 12, 2000), -1).astype("int8"),
            "target": np.where(train, draws.integers(0, 2, 2000), -1).astype("int8"),
            "left_out": np.where(draws.random(2000) < 0.1, "image file missing", None),
        }
    )


def test_the_labels_digest_is_that_of_the_sorted_lines(rows: pd.DataFrame) -> None:
    kept = rows[rows["left_out"].isna() & (rows["split"] == "train")]
    lines = sorted(f"{row.key},{row.fold},{row.target}" for row in kept.itertuples())
    assert labels_digest(kept_table(rows)) == hashlib.sha256("\n".join(lines).encode()).hexdigest()


def test_counts_are_those_of_the_kept_rows(rows: pd.DataFrame) -> None:
    by = ["source", "split", "fold", "target"]
    sizes = rows[rows["left_out"].isna()].groupby(by).size()
    assert [tuple(count.values()) for count in count_rows(kept_table(rows))] == [
        (*place, size) for place, size in sizes.items()
    ]
