"""--autotune measures, prints and remembers; later runs use the result."""

import json
from pathlib import Path

import pytest
import yaml

import train
from engine import tune

WORDS = ("--backbone", "tiny", "--batch-size", "16", "--epochs", "1", "--speed.compile", "off")


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(tune, "_STEP_SECONDS", 0.2)
    monkeypatch.setattr(tune, "_LOADER_SECONDS", 0.2)
    return tmp_path / "cache"


def test_the_fastest_way_is_remembered_and_used_by_later_runs(
    own_cache: Path, shard_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*WORDS, "--shards", str(shard_folder)]
    train.main([*words, "--out", str(tmp_path / "tuned"), "--autotune"])
    output = capsys.readouterr().out
    assert "--autotune: tiny, 64 px, 16 per rank" in output
    assert all(way in output for way in ("channels_last", "contiguous", "host", "dali-cpu", "a resident batch"))
    assert output.count(" *") == 1
    (file,) = (own_cache / "melanoma").iterdir()
    record = json.loads(file.read_text())
    assert record["images_per_s"] > 0
    opposite = {**record["found"], "channels_last": not record["found"]["channels_last"], "placement": "dali-cpu"}
    file.write_text(json.dumps({**record, "found": opposite}))
    train.main([*words, "--out", str(tmp_path / "later")])
    assert f"using the --autotune result in {file}: " in capsys.readouterr().out
    facts = yaml.safe_load((tmp_path / "later" / "tiny" / "fold0" / "config.yaml").read_text())["facts"]
    assert (facts["channels_last"], facts["placement"]) == (opposite["channels_last"], "dali-cpu")


def test_explicit_settings_override_the_autotune_result(own_cache: Path, shard_folder: Path, tmp_path: Path) -> None:
    words = [*WORDS, "--shards", str(shard_folder), "--loader.placement", "host"]
    train.main([*words, "--out", str(tmp_path / "tuned"), "--autotune", "--speed.memory_format", "contiguous"])
    (file,) = (own_cache / "melanoma").iterdir()
    assert json.loads(file.read_text())["found"]["channels_last"] is False
    train.main([*words, "--out", str(tmp_path / "later"), "--speed.memory_format", "channels_last"])
    facts = yaml.safe_load((tmp_path / "later" / "tiny" / "fold0" / "config.yaml").read_text())["facts"]
    assert (facts["channels_last"], facts["placement"]) == (True, "host")


def test_another_batch_size_is_another_case(
    own_cache: Path, shard_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*WORDS, "--shards", str(shard_folder), "--loader.placement", "host"]
    train.main([*words, "--out", str(tmp_path / "tuned"), "--autotune"])
    capsys.readouterr()
    train.main([*words, "--out", str(tmp_path / "other"), "--batch-size", "14"])
    assert "using the --autotune result" not in capsys.readouterr().out
    assert len(list((own_cache / "melanoma").iterdir())) == 1
