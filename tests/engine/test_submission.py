"""Submissions that Kaggle takes, or a warning that says why not."""

import shutil
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from conftest import write_isic2020

from configs.errors import UserError
from configs.prep import PrepConfig
from engine.submission import expected_rows, write_submission
from loaders.shards import ShardSet
from prep.build import build


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shard set without 3 of the 12 test images that test.csv names."""
    root = tmp_path_factory.mktemp("short")
    folder = write_isic2020(root / "2020", 16, 12)
    for path in sorted((folder / "jpeg" / "test").iterdir())[:3]:
        path.unlink()
    build(PrepConfig(isic2020=str(folder), out=str(root / "set"), size=32, folds=2, workers=1, missing="skip"))
    shutil.copy(folder / "test.csv", root)
    return root


@pytest.mark.parametrize("sample", [False, True])
def test_a_test_image_that_the_set_lacks_is_missed_and_may_be_filled(sample: bool, short: Path, tmp_path: Path) -> None:
    names = [line.split(",")[0] for line in (short / "test.csv").read_text().splitlines()[1:]]
    csv = tmp_path / "sample_submission.csv"
    csv.write_text("image_name,target\n" + "".join(f"{name},0\n" for name in names))
    with closing(ShardSet(short / "set")) as shards:
        keys = shards.key.take(shards.split_rows("test")).to_pylist()
        form = expected_rows(shards, "test", csv if sample else None, None)
        filled = expected_rows(shards, "test", csv if sample else None, 0.25)
    assert len(keys) == 9
    said = write_submission(tmp_path / "short.csv", form, keys, np.full(9, 0.5))
    assert f"9 images; warning: 3 of 12 images have no prediction, first {names[0]}; Kaggle refuses" in said
    assert "3 of 12 images" in (form.shortage(keys) or "")
    write_submission(tmp_path / "whole.csv", filled, keys, np.full(9, 0.5))
    lines = (tmp_path / "whole.csv").read_text().splitlines()
    assert sorted(line.split(",")[0] for line in lines[1:]) == sorted(names)
    assert sum(line.endswith(",0.250000000") for line in lines) == 3
    assert form.shortage(names) is None


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"image_name,target\n", "has no rows below its header"),
        (b"image_name,target\nISIC_1,\x000\n", "line 2 holds a NUL byte"),
        (b"image_name,target\nISIC_\xff,0\n", "line 2: byte 0xff is no UTF-8"),
        (b"<!DOCTYPE html><html>", "a web page"),
    ],
)
def test_a_sample_submission_that_is_none_is_refused(content: bytes, said: str, short: Path, tmp_path: Path) -> None:
    (tmp_path / "sample.csv").write_bytes(content)
    with closing(ShardSet(short / "set")) as shards, pytest.raises(UserError, match=said):
        expected_rows(shards, "test", tmp_path / "sample.csv", None)


def test_a_sample_submission_that_a_spreadsheet_saved_is_read(short: Path, tmp_path: Path) -> None:
    names = [line.split(",")[0] for line in (short / "test.csv").read_text().splitlines()[1:]]
    text = "image_name;target\r\n" + "".join(f"{name};0,5\r\n" for name in names)
    (tmp_path / "sample.csv").write_bytes(text.encode("utf-16"))
    with closing(ShardSet(short / "set")) as shards:
        assert list(expected_rows(shards, "test", tmp_path / "sample.csv", None).keys) == names
