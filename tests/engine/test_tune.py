"""--autotune measures, prints and remembers; later runs use the result."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import train
from configs.errors import UserError
from configs.schema import LoaderConfig, SpeedConfig, TrainConfig
from engine import tune
from engine.distributed import Ranks
from engine.prepare_step import Speed
from engine.trials import Bench, Trial
from loaders.batch import Batch
from loaders.loader import Loader

ALONE = Ranks(rank=0, world_size=1, local_rank=0, local_world_size=1, device=torch.device("cpu"))
WORDS = ("--backbone", "tiny", "--batch-size", "16", "--epochs", "1", "--speed.compile", "off")


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(tune, "_STEP_SECONDS", 0.2)
    monkeypatch.setattr(tune, "_LOADER_SECONDS", 0.2)
    monkeypatch.setenv("COLUMNS", "200")
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


@pytest.mark.usefixtures("own_cache")
def test_without_a_gpu_nothing_of_it_is_tried(
    shard_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Bench, "_images_per_s", lambda *_: 1.0)
    tune.tune(config_of(shard_folder), ALONE)
    output = capsys.readouterr().out
    assert all(way in output for way in ("compile on", "dali-cpu", "prefetch 4", "prefetch 8", "32 per rank"))
    assert not any(way in output for way in ("dali-gpu", "cache gpu", "decode cpu", "hw_decoder_load", "cuda_graph on"))


def test_what_fails_is_a_line_of_the_table(
    own_cache: Path, shard_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = Loader.train_batches

    def failing(loader: Loader, *words: Any, **more: Any) -> Iterator[Batch]:
        if loader.placement == "dali-cpu":
            raise RuntimeError("nvJPEG error (6): execution failed\nStacktrace (9 entries)")
        if loader._config.prefetch == 4:
            raise MemoryError
        if loader._config.prefetch == 8:
            raise UserError("sample 7 is damaged")
        return original(loader, *words, **more)

    monkeypatch.setattr(Loader, "train_batches", failing)
    tune.tune(config_of(shard_folder, speed=SpeedConfig(memory_format="contiguous", compile="off")), ALONE)
    output = capsys.readouterr().out
    for what in ("nvJPEG error (6): execution failed", "out of memory", "sample 7 is damaged"):
        assert f"failed: {what}" in output
    assert "Stacktrace" not in output
    assert json.loads(next((own_cache / "melanoma").iterdir()).read_text())["found"]["placement"] == "host"


@pytest.mark.usefixtures("own_cache")
def test_where_everything_fails_the_reason_is_the_error(shard_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> float:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(Bench, "_images_per_s", full)
    with pytest.raises(
        UserError, match=r"every way to run the step failed \(failed: out of memory\): lower --batch-size"
    ):
        tune.tune(config_of(shard_folder), ALONE)


def config_of(shards: Path, **more: Any) -> TrainConfig:
    return TrainConfig(shards=str(shards), backbone="tiny", batch_size=16, **more)


def gpu_speed(_: Bench, trial: Trial) -> float:
    """A made-up machine: decoding on its CPU is best, with three batches or more ahead; its cache does not fit."""
    speed = 100.0 + 50 * trial.speed.compile + 50 * trial.speed.cuda_graph + 20 * (not trial.speed.channels_last)
    loader = trial.loader
    if loader is None:
        return speed * 2
    if loader.cache == "gpu":
        raise UserError("loader.cache='gpu' needs 11.4 GB")
    speed *= {"dali-gpu": 1.5, "dali-cpu": 1.2, "host": 1.0}[loader.placement]
    speed *= 1 + 0.1 * (loader.decode == "cpu") + 0.1 * (loader.prefetch > 2)
    return speed * trial.batch / 16 * (0.75 if trial.batch > 16 else 1)


@pytest.mark.usefixtures("own_cache")
def test_on_a_gpu_one_setting_is_tried_after_the_other(
    shard_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Bench, "_images_per_s", gpu_speed)
    monkeypatch.setattr(tune, "_device_name", lambda _: "a GPU")
    monkeypatch.setattr(tune, "available_placements", lambda _: ["host", "dali-cpu", "dali-gpu"])
    ranks, config = replace(ALONE, device=torch.device("cuda")), config_of(shard_folder)
    tune.tune(config, ranks)
    output = capsys.readouterr().out
    lines = [line for line in output.splitlines() if "compile o" in line]
    # The layouts, compilation and the graph; three placements, cache, decode, prefetch 4 and 8; the larger batch.
    assert len(lines) == 4 + 3 + 1 + 1 + 2 + 1
    assert "failed: loader.cache='gpu' needs 11.4 GB" in output
    assert "hw_decoder_load" not in output, "where the CPU decodes, it has no meaning"
    assert "--batch-size 32 would train 50% faster; the batch is part of the recipe, so 16 is kept" in output
    way, remarks = tune.chosen_way(config, ranks, 64, 16, steps=10)
    assert way.speed == Speed(channels_last=False, compile=True, cuda_graph=True)
    assert way.loader == LoaderConfig(placement="dali-gpu", decode="cpu", prefetch=4)
    assert "cuda_graph on, dali-gpu, decode cpu, prefetch 4" in remarks[0]
    # What the user says by hand stays.
    for asked in (
        LoaderConfig(placement="host"),
        LoaderConfig(cache="ram"),
        LoaderConfig(placement="dali-gpu", decode="cpu", prefetch=3),
    ):
        assert tune.chosen_way(replace(config, loader=asked), ranks, 64, 16, steps=10)[0].loader == asked


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize(
    ("fits", "found"), [(False, LoaderConfig(hw_decoder_load=0.35)), (True, LoaderConfig(cache="gpu"))]
)
def test_the_gpus_decoder_is_tuned_only_where_it_decodes(
    fits: bool, found: LoaderConfig, shard_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def speed(_: Bench, trial: Trial) -> float:
        loader = trial.loader or LoaderConfig()
        cached = 2.0 if loader.cache == "gpu" and fits else 1.0
        return 100 * cached * (1.1 if loader.decode == "mixed" else 1.0) * (2 - abs(loader.hw_decoder_load - 0.3))

    monkeypatch.setattr(Bench, "_images_per_s", speed)
    monkeypatch.setattr(tune, "_device_name", lambda _: "a GPU")
    monkeypatch.setattr(tune, "available_placements", lambda _: ["dali-gpu"])
    ranks, config = replace(ALONE, device=torch.device("cuda")), config_of(shard_folder)
    tune.tune(config, ranks)
    assert tune.chosen_way(config, ranks, 64, 16, steps=10)[0].loader == replace(found, placement="dali-gpu")


def test_a_run_goes_on_where_what_was_found_does_not_fit_any_more(
    own_cache: Path,
    shard_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = [*WORDS, "--shards", str(shard_folder)]
    train.main([*words, "--out", str(tmp_path / "tuned"), "--autotune"])
    (file,) = (own_cache / "melanoma").iterdir()
    record = json.loads(file.read_text())
    file.write_text(json.dumps({**record, "found": {**record["found"], "placement": "host", "cache": "ram"}}))
    monkeypatch.setattr("loaders.cache.available_memory", lambda: 1000)
    train.main([*words, "--out", str(tmp_path / "later")])
    warning = "warning: continuing without the loader's settings that --autotune found: loader.cache='ram' needs"
    assert warning in capsys.readouterr().out


@pytest.mark.parametrize("change", [{"cache": "disk"}, {"prefetch": 1000}, {"prefetch": "many"}, {"decode": ...}])
def test_a_remembered_way_of_another_version_is_not_used(
    change: dict[str, Any], own_cache: Path, shard_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Bench, "_images_per_s", lambda *_: 1.0)
    config = config_of(shard_folder)
    tune.tune(config, ALONE)
    (file,) = (own_cache / "melanoma").iterdir()
    record = json.loads(file.read_text())
    assert tune.chosen_way(config, ALONE, 64, 16, steps=10)[1]
    found = {name: value for name, value in {**record["found"], **change}.items() if value is not ...}
    file.write_text(json.dumps({**record, "found": found}))
    assert not tune.chosen_way(config, ALONE, 64, 16, steps=10)[1]
