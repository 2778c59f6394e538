"""The commands as a user types them: fast help, one line per mistake, no partial output."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from configs.cli import parse, with_recipe
from configs.errors import UserError
from configs.grid import parse_grid
from configs.infer import InferConfig
from configs.schema import ModelConfig, TrainConfig

ROOT = Path(__file__).resolve().parents[1]
BACKBONES = ("efficientnet_b1", "efficientnet_b3", "efficientnet_b4", "resnest50", "tiny")
COMMANDS = (
    "prep/shard.py",
    "prep/merge.py",
    "prep/verify.py",
    "prep/synthetic.py",
    "train.py",
    "infer.py",
    "-m report",
)


def run(*words: str, python: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *python, *words], cwd=ROOT, capture_output=True, text=True, check=False)


def recipe(backbone: str, *more: str) -> TrainConfig:
    words = with_recipe([f"--config={ROOT / 'configs' / name}.yaml" for name in more], backbone)
    return parse(TrainConfig, words, prog="train.py", description="")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_does_not_import_slow_packages(command: str) -> None:
    done = run(*command.split(), "--help", python=("-X", "importtime"))
    assert done.returncode == 0
    assert "usage:" in done.stdout
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "jsonargparse" in imported
    assert not imported & {"torch", "pandas", "sklearn", "nvidia.dali", "timm", "matplotlib"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("train.py", "--fold", "9", "--backbone", "tiny", "--shards", "SHARDS"), "has folds 0 to 2"),
        (("train.py", "--backbone", "resnext_one", "--weights", "none", "--shards", "SHARDS"), "is unknown"),
        (("train.py", "--shards", "nowhere"), "holds no shard set"),
        (("train.py", "--batch-size", "1"), "batch_size=1 is out of range"),
        (("train.py", "--epochs", "many"), 'key "epochs"'),
        (("train.py", "--no-such-option", "1"), "--no-such-option: no such option"),
        (("train.py", "--config", "nowhere.yaml"), "nowhere.yaml"),
        (("infer.py", "--runs", "nowhere"), "no such folder"),
        (("infer.py", "--views", "3"), 'key "views"'),
        (("-m", "report", "--runs", "nowhere", "--shards", "SHARDS"), "no such folder"),
        (("-m", "report", "--shards", "nowhere"), "holds no shard set"),
        (("prep/shard.py", "--isic2020", "nowhere"), "no such folder"),
        (("prep/shard.py",), "name at least one of --isic2020 FOLDER and --isic2019 FOLDER"),
        (("prep/shard.py", "--isic2020", "EMPTY"), "holds no ISIC 2020 tables: wanted one of train.csv"),
        (("prep/shard.py", "--isic2020", "x", "--size", "7"), "size=7 is out of range"),
        (("prep/shard.py", "--isic2020", "x", "--fit", "stretch"), 'key "fit"'),
        (("prep/shard.py", "--master", "nowhere.csv"), "nowhere.csv does not exist"),
        (("prep/merge.py",), "name at least one of --isic2020 FOLDER and --isic2019 FOLDER"),
        (("prep/merge.py", "--isic2019", "EMPTY"), "ISIC_2019_Training_GroundTruth.csv does not exist"),
        (("infer.py", "--split", "train"), 'key "split"'),
    ],
)
def test_a_mistake_ends_in_one_line_and_exit_code_two(
    words: tuple[str, ...], message: str, shard_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    places = {"SHARDS": str(shard_folder), "EMPTY": str(tmp_path / "empty")}
    out = tmp_path / "out"
    done = run(*(places.get(word, word) for word in words), "--out", str(out))
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_every_recipe_is_a_valid_config_of_its_own_backbone() -> None:
    recipes = {path.stem for path in (ROOT / "configs").glob("*.yaml")}
    assert recipes == {*BACKBONES, "image_only", "meta_only", "diagnosis"}
    for name in BACKBONES:
        assert recipe(name).backbone == name


def test_an_ablation_changes_only_what_it_names() -> None:
    plain = recipe("tiny")
    assert recipe("tiny", "image_only") == replace(plain, out="runs/image_only", model=ModelConfig(inputs="image"))
    assert recipe("tiny", "meta_only") == replace(plain, out="runs/meta_only", model=ModelConfig(inputs="meta"))
    assert recipe("tiny", "diagnosis") == replace(plain, out="runs/diagnosis", target="diagnosis")


def test_the_reference_recipe_is_the_default() -> None:
    assert recipe("efficientnet_b1") == TrainConfig()


def test_options_override_the_recipe_of_the_backbone() -> None:
    words = ["--backbone", "tiny", "--optim.lr", "0.5", "--batch-size=32"]
    (config,) = parse_grid(words, prog="train.py", description="")
    assert (config.weights, config.optim.lr, config.batch_size) == ("none", 0.5, 32)


def test_a_switch_needs_no_value() -> None:
    assert parse(InferConfig, ["--ensemble", "--views", "8"], prog="infer.py", description="").ensemble
    assert not parse(InferConfig, ["--ensemble", "false"], prog="infer.py", description="").ensemble


def test_a_value_out_of_range_names_its_field() -> None:
    with pytest.raises(UserError, match=r"augment\.hflip=2\.0 is out of range: give 0 to 1"):
        parse(TrainConfig, ["--augment.hflip", "2"], prog="train.py", description="")


def test_a_file_where_a_folder_should_be_is_named(downloads: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run("prep/shard.py", "--isic2020", str(downloads[0]), "--out", str(tmp_path / "file" / "set"))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "Not a directory" in done.stderr


def test_a_bad_image_ends_prep_in_one_line_without_a_set(downloads: tuple[Path, Path], tmp_path: Path) -> None:
    folder = tmp_path / "2020"
    shutil.copytree(downloads[0], folder)
    (folder / "jpeg" / "train" / "ISIC_0000005.jpg").write_bytes(b"GIF89a, perhaps")
    done = run("prep/shard.py", "--isic2020", str(folder), "--out", str(tmp_path / "set"), "--folds", "2")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "ISIC_0000005.jpg: not an image, or none of JPEG, PNG, BMP, WebP and TIFF; all of them are in" in done.stderr
    assert not (tmp_path / "set").exists()
    assert not list((tmp_path / "set.partial").glob("*.tmp"))
