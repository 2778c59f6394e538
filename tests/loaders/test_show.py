from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from streams import CPU

from configs.schema import ShowConfig
from loaders import show
from loaders.shards import ShardSet


def test_the_command_writes_a_row_per_sample_and_a_block_of_columns_per_placement(
    shard_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    show.main([str(shard_folder), "--out", str(tmp_path / "grid.png"), "--samples", "2", "--epochs", "1"])
    assert capsys.readouterr().out.strip() == str(tmp_path / "grid.png")
    with Image.open(tmp_path / "grid.png") as image:
        pixels = np.asarray(image.convert("RGB"))
    assert pixels.std() > 5
    blocks = len(show.shown_loaders(CPU))
    assert pixels.shape[1] == pytest.approx(1.3 * 2 * blocks * 130, abs=2)


def test_both_labels_are_shown_and_every_placement_shows_the_same(shard_folder: Path) -> None:
    shards, config = ShardSet(shard_folder), ShowConfig(samples=4, epochs=2)
    rows = show._chosen_rows(shards, 4)
    assert sorted(shards.target[rows].tolist()) == [0, 0, 1, 1]
    host, *others = (show.images(shards, rows, loader, config, CPU) for loader in show.shown_loaders(CPU).values())
    assert [sorted(part) for part in host] == [rows.tolist()] * 3
    for other in others:
        for ours, theirs in zip(host, other, strict=True):
            assert all(np.abs(ours[index].astype(int) - theirs[index]).mean() <= 2 for index in rows.tolist())
