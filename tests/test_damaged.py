"""A run whose files are damaged or of something else: one line that names the file, and the rest still works."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from commands import tiny

import infer
import train
from configs.errors import UserError
from configs.files import only_writer
from engine.checkpoint import load_checkpoint, save_checkpoint
from engine.predictor import read_record

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def trained(shard_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A member of fold 0 after two epochs, and its judgement."""
    root = tmp_path_factory.mktemp("trained")
    train.main(tiny(shard_folder, root / "runs", "--epochs", "2", "--patience", "0"))
    infer.main(["--runs", str(root / "runs"), "--shards", str(shard_folder), "--out", str(root / "out"), "--ensemble"])
    return root


@pytest.fixture
def root(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "copy"))


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(bytes(content))


def test_a_damaged_best_is_made_again_where_last_holds_it(root: Path, shard_folder: Path) -> None:
    folder = root / "runs" / "tiny" / "fold0"
    last = load_checkpoint(folder / "last.pt", CPU)
    last["best"]["epoch"] = last["epoch"] - 1
    save_checkpoint(last, folder / "last.pt")
    flip(folder / "best.pt", 500)
    train.main(tiny(shard_folder, root / "runs", "--epochs", "2", "--patience", "0"))
    assert load_checkpoint(folder / "best.pt", CPU)["best"] == last["best"]


def test_without_its_best_epoch_a_member_keeps_its_last_one(
    root: Path, shard_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = root / "runs" / "tiny" / "fold0"
    last, oof = load_checkpoint(folder / "last.pt", CPU), pd.read_parquet(folder / "oof.parquet")
    save_checkpoint({**last, "best": {"epoch": 0, "score": 0.99}}, folder / "last.pt")
    flip(folder / "best.pt", 500)
    (folder / "oof.parquet").unlink()
    train.main(tiny(shard_folder, root / "runs", "--epochs", "2", "--patience", "0"))
    assert "best.pt cannot be read as a checkpoint: its SHA-256 is not the one" in capsys.readouterr().out
    again = pd.read_parquet(folder / "oof.parquet")
    pd.testing.assert_series_equal(again["pred_last"], oof["pred_last"])
    assert again["pred_best"].isna().all()
    words = ["--runs", str(root / "runs"), "--shards", str(shard_folder), "--out", str(root / "new")]
    with pytest.raises(UserError, match=r"best\.pt cannot be read.*last\.pt beside it is enough"):
        infer.main([*words, "--checkpoint", "best"])
    infer.main(words)
    assert len(pd.read_csv(root / "new" / "submission_tiny_fold0.csv")) == 9


def other_layer(saved: dict[str, Any]) -> None:
    saved["model"]["head.linear.weight"] = torch.zeros(9, 9)


def unknown_setting(saved: dict[str, Any]) -> None:
    saved["config"]["model"]["layers"] = 3


def other_backbone(saved: dict[str, Any]) -> None:
    saved["config"]["backbone"] = "test_resnet.r160_in1k"


def other_fold(saved: dict[str, Any]) -> None:
    saved["config"]["fold"] = 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            other_layer,
            r"does not fit the network that its settings describe: shape of head\.linear\.weight is \[9, 9\]",
        ),
        (unknown_setting, r"has settings that this version cannot build a network of \(TypeError.*'layers'\)"),
        (other_backbone, r"was trained with backbone=test_resnet\.r160_in1k, the config\.yaml beside it says tiny"),
        (other_fold, r"was trained with fold=2, the config\.yaml beside it says 0"),
    ],
)
def test_inference_refuses_a_checkpoint_of_something_else(
    change: Callable[[dict[str, Any]], None], message: str, root: Path, shard_folder: Path
) -> None:
    path = root / "runs" / "tiny" / "fold0" / "last.pt"
    saved = load_checkpoint(path, CPU)
    change(saved)
    save_checkpoint(saved, path)
    with pytest.raises(UserError, match=rf"last\.pt {message}"):
        infer.main(["--runs", str(root / "runs"), "--shards", str(shard_folder), "--out", str(root / "new")])
    assert not (root / "new").exists()


def test_a_best_epoch_of_another_network_is_not_used(
    root: Path, shard_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = root / "runs" / "tiny" / "fold0"
    last, best = (load_checkpoint(folder / name, CPU) for name in ("last.pt", "best.pt"))
    save_checkpoint({**last, "best": {"epoch": 0, "score": 0.99}}, folder / "last.pt")
    other_layer(best)
    save_checkpoint(best, folder / "best.pt")
    (folder / "oof.parquet").unlink()
    train.main(tiny(shard_folder, root / "runs", "--epochs", "2", "--patience", "0"))
    assert re.search(r"warning: \S+best\.pt holds the weights of another network; remove it", capsys.readouterr().out)
    assert pd.read_parquet(folder / "oof.parquet")["pred_best"].isna().all()


def test_training_refuses_to_continue_from_other_weights(root: Path, shard_folder: Path) -> None:
    path = root / "runs" / "tiny" / "fold0" / "last.pt"
    saved = load_checkpoint(path, CPU)
    other_layer(saved)
    save_checkpoint({**saved, "finished": False}, path)
    with pytest.raises(UserError, match=r"fold0: last\.pt does not fit the network .*--resume never"):
        train.main(tiny(shard_folder, root / "runs", "--epochs", "2", "--patience", "0"))


@pytest.mark.parametrize("text", ["config: 3", "\0", "config: {fold: zero, backbone: tiny}", "- [", "a: 2026-99-99"])
def test_settings_that_describe_no_member_are_named(text: str, root: Path, shard_folder: Path) -> None:
    (root / "runs" / "tiny" / "fold0" / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=r"fold0/config\.yaml does not describe a member"):
        infer.main(["--runs", str(root / "runs"), "--shards", str(shard_folder), "--out", str(root / "new")])


def test_a_changed_judgement_is_not_used(root: Path) -> None:
    path = root / "out" / "ensemble.json"
    record = read_record(path.parent)
    record["ensemble"]["operating_points"][0]["threshold"] += 0.1
    path.write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"ensemble\.json is damaged, or was changed by hand .*--ensemble again"):
        read_record(path.parent)


@pytest.mark.parametrize("place", [10, 1000, -200])
def test_damaged_out_of_fold_scores_are_not_used(place: int, root: Path) -> None:
    flip(root / "out" / "oof.parquet", place)
    with pytest.raises(UserError, match=r"oof\.parquet is missing or damaged"):
        read_record(root / "out")


THINGS: dict[str, Callable[[Path], None]] = {
    "a pipe": os.mkfifo,
    "a folder": Path.mkdir,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a broken link": lambda path: path.symlink_to("nowhere"),
}


@pytest.mark.parametrize("thing", THINGS)
@pytest.mark.parametrize(
    ("name", "said"),
    [("last.pt", "cannot be read as a checkpoint"), ("config.yaml", "does not describe a member")],
)
def test_what_takes_a_files_place_is_not_passed_over(
    name: str, said: str, thing: str, root: Path, shard_folder: Path
) -> None:
    path = root / "runs" / "tiny" / "fold0" / name
    path.unlink()
    THINGS[thing](path)
    with pytest.raises(UserError, match=rf"{name} {said}"):
        infer.main(["--runs", str(root / "runs"), "--shards", str(shard_folder), "--out", str(root / "new")])


@pytest.mark.parametrize("name", ["metrics.jsonl", "best.pt", "training_curves.png"])
def test_training_does_not_wait_for_a_pipe(name: str, root: Path, shard_folder: Path) -> None:
    folder = root / "runs" / "tiny" / "fold0"
    saved = load_checkpoint(folder / "last.pt", CPU)
    save_checkpoint({**saved, "finished": False}, folder / "last.pt")
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(UserError, match=rf"{name} is not a regular file: remove it"):
        train.main(tiny(shard_folder, root / "runs", "--epochs", "2", "--patience", "0"))


def test_a_member_that_another_process_has_just_finished_stays_as_it_is(
    root: Path, shard_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = root / "runs" / "tiny" / "fold0"
    before = {name: (folder / name).read_bytes() for name in ("last.pt", "best.pt", "oof.parquet", "metrics.jsonl")}
    monkeypatch.setattr("engine.run.is_finished", lambda *_: False)  # it was not, when this one looked
    train.main(tiny(shard_folder, root / "runs", "--epochs", "2", "--patience", "0"))
    assert {name: (folder / name).read_bytes() for name in before} == before


def test_missing_curves_are_drawn_by_one_process_only(root: Path, shard_folder: Path) -> None:
    folder = root / "runs" / "tiny" / "fold0"
    (folder / "training_curves.png").unlink()
    words = tiny(shard_folder, root / "runs", "--epochs", "2", "--patience", "0")
    with only_writer(folder / "train.lock"), pytest.raises(UserError, match="another process"):
        train.main(words)
    left = folder / "training_curves.png.123.0123abcd.tmp"  # by a process that was killed a moment ago
    left.write_bytes(b"")
    train.main(words)
    assert not left.exists()
    assert (folder / "training_curves.png").read_bytes().startswith(b"\x89PNG")
