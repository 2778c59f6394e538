"""An image whose reading kills the process, as where memory runs out, is named, and the rest can be packed."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from conftest import ROOT, write_isic2020

from configs.errors import UserError
from configs.prep import PrepConfig
from prep.build import build

# Every Python that is started with this in its path is killed by a JPEG of these bytes, and removes them if it is ONCE.
_DEADLY = """
import os, pathlib, signal, simplejpeg
decode = simplejpeg.decode_jpeg
def decode_jpeg(data, *args, **kwargs):
    deadly = pathlib.Path(os.environ["DEADLY"])
    if deadly.exists() and deadly.read_bytes() == data:
        if "ONCE" in os.environ:
            deadly.unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    return decode(data, *args, **kwargs)
simplejpeg.decode_jpeg = decode_jpeg
"""
NAME = "ISIC_0000100"


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PrepConfig:
    """A download of three chunks, of which one image kills whoever reads it."""
    folder = write_isic2020(tmp_path / "2020", 300, 0)
    (folder / "test.csv").unlink()
    (tmp_path / "sitecustomize.py").write_text(_DEADLY)
    (tmp_path / "deadly").write_bytes((folder / "jpeg" / "train" / f"{NAME}.jpg").read_bytes())
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("DEADLY", str(tmp_path / "deadly"))
    return PrepConfig(isic2020=str(folder), out=str(tmp_path / "set"), size=32, workers=2)


def test_it_is_named_like_any_other_bad_image_and_may_be_skipped(config: PrepConfig) -> None:
    with pytest.raises(
        UserError, match=rf"1 images cannot be used: .*{NAME}\.jpg: the process that read it was killed"
    ):
        build(config)
    assert "300 images" not in build(replace(config, on_bad="skip"))
    rejected = pd.read_csv(Path(config.out) / "rejected.csv")
    assert rejected["image_name"].tolist() == [NAME]
    rows = pd.read_parquet(Path(config.out) / "samples.parquet")
    assert rows.loc[rows["left_out"].notna(), "key"].tolist().count(NAME) == 1


@pytest.mark.long
def test_it_is_read_once_memory_suffices(config: PrepConfig, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=NAME):
        build(config)
    (tmp_path / "deadly").unlink()
    build(config)
    assert pd.read_csv(Path(config.out) / "rejected.csv").empty


@pytest.mark.long
def test_where_no_image_alone_is_deadly_those_being_read_are_named(
    config: PrepConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONCE", "1")
    with pytest.raises(UserError, match=rf"a worker process was killed while it read .*{NAME}\.jpg.*fewer --workers"):
        build(config)
    build(config)


@pytest.mark.long
def test_with_one_process_the_next_run_names_it(config: PrepConfig) -> None:
    words = ["prep/shard.py", "--isic2020", str(config.isic2020), "--out", config.out, "--size", "32", "--workers", "1"]

    def run() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *words]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=os.environ.copy())

    assert run().returncode == -signal.SIGKILL
    second = run()
    assert second.returncode == 2
    assert f"{NAME}.jpg: the process that read it was killed" in second.stderr
