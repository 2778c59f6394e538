"""Checkpoints: whole or not at all, and never loaded where anything in them is not what was saved."""

import os
import random
import resource
from pathlib import Path
from typing import Any

import pytest
import torch

from configs.errors import UserError
from engine.checkpoint import load_checkpoint, read_checkpoint, save_checkpoint

CPU = torch.device("cpu")
FACTS = {"size": 64, "meta_kind": "clinical", "meta_features": [], "labels_sha256": "", "meta_sha256": ""}
BOTH = {"config": {}, "facts": FACTS, "best": {"epoch": 0, "score": 0.9}}
END = {"validation": torch.rand(5), "validation_index": torch.arange(5)}


def content(name: str, **changes: Any) -> dict[str, Any]:
    """What last.pt or best.pt holds, of a network of one layer."""
    found = {**BOTH, **END, "model": {"weight": torch.randn(20, 20), "mean": torch.zeros(20)}}
    if name == "last.pt":
        found |= {"epoch": 1, "step": 0, "finished": False, "loss_sum": 0.0, "optimizer": {}, "scaler": {}}
        found |= {"average": {"weight": torch.randn(20, 20)}}
    return {part: value for part, value in {**found, **changes}.items() if value is not ...}


def test_a_checkpoint_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    state = {"model": {"weight": torch.randn(3)}, "epoch": 4, "facts": {"names": ["a", "b"]}, "auc": float("nan")}
    save_checkpoint(state, tmp_path / "last.pt")
    loaded = load_checkpoint(tmp_path / "last.pt", CPU)
    assert torch.equal(loaded["model"]["weight"], state["model"]["weight"])
    assert (loaded["epoch"], loaded["facts"]) == (4, {"names": ["a", "b"]})


def test_other_programs_can_read_a_checkpoint(tmp_path: Path) -> None:
    save_checkpoint(content("best.pt"), tmp_path / "best.pt")
    assert torch.load(tmp_path / "best.pt", weights_only=True)["best"] == BOTH["best"]


def test_a_full_disk_leaves_the_last_good_checkpoint_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint({"epoch": 1}, path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))  # no file may grow beyond it: writes fail half-way
    try:
        with pytest.raises(UserError, match=r"last\.pt could not be written: .*; the previous one is kept"):
            save_checkpoint({"epoch": 2, "model": torch.zeros(100_000)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert load_checkpoint(path, CPU)["epoch"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"]


@pytest.mark.parametrize("content", [b"", b"no checkpoint at all", b"PK\x03\x04 torn off"])
def test_a_file_that_is_no_checkpoint_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "best.pt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"best\.pt cannot be read as a checkpoint"):
        load_checkpoint(path, CPU)


def test_a_pipe_in_the_place_of_a_checkpoint_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "last.pt")
    with pytest.raises(UserError, match=r"last\.pt cannot be read as a checkpoint"):
        load_checkpoint(tmp_path / "last.pt", CPU)


class Trap:
    """Something that must not be unpickled."""


def test_loading_a_checkpoint_executes_no_code(tmp_path: Path) -> None:
    save_checkpoint({"model": Trap()}, tmp_path / "best.pt")
    with pytest.raises(UserError, match="cannot be read as a checkpoint: Weights only"):
        load_checkpoint(tmp_path / "best.pt", CPU)


@pytest.mark.parametrize("name", ["last.pt", "best.pt"])
@pytest.mark.parametrize("damage", ["a flipped bit", "a cut"])
def test_no_damage_loads(name: str, damage: str, tmp_path: Path) -> None:
    """Anywhere in the file: weights, names, the zip's own structure, the digest."""
    path, moments = tmp_path / name, random.Random(0)
    save_checkpoint(content(name), path)
    read_checkpoint(path)
    whole = path.read_bytes()
    for _ in range(120):
        place = moments.randrange(len(whole))
        changed = bytearray(whole)
        changed[place] ^= 1 << moments.randrange(8)
        path.write_bytes(bytes(changed) if damage == "a flipped bit" else whole[:place])
        with pytest.raises(UserError, match="cannot be read as a checkpoint"):
            read_checkpoint(path)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("best.pt", {"model": ...}, "model is missing"),
        ("last.pt", {"optimizer": ...}, "optimizer is missing"),
        ("last.pt", {"epoch": "1"}, "epoch is no int"),
        ("last.pt", {"step": -1}, "epoch or step is below 0"),
        ("best.pt", {"more": 1}, "more is unknown to this version"),
        ("best.pt", {"facts": {"size": 64}}, "facts or best have other fields"),
        ("best.pt", {"model": {"head.weight": torch.tensor([1.0, float("nan")])}}, r"model\.head\.weight holds NaN"),
        ("last.pt", {"average": {"mean": torch.tensor([float("inf")])}}, r"average\.mean holds NaN or infinity"),
    ],
)
def test_a_checkpoint_that_holds_something_else_is_refused_by_name(
    name: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    save_checkpoint(content(name, **changes), tmp_path / name)
    with pytest.raises(UserError, match=rf"{name} is not sound: {message}.*; remove it"):
        read_checkpoint(tmp_path / name)


def test_the_remedy_says_what_the_other_file_is_still_good_for(tmp_path: Path) -> None:
    for name, remedy in (
        ("best.pt", r"last\.pt beside it is enough to train on"),
        ("last.pt", "infer.py predicts with"),
    ):
        for each in ("best.pt", "last.pt"):
            save_checkpoint(content(each), tmp_path / each)
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-1])
        with pytest.raises(UserError, match=remedy):
            read_checkpoint(tmp_path / name)
