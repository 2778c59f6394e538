import resource
from pathlib import Path

import pytest
import torch

from configs.errors import UserError
from engine.checkpoint import FORMAT, load_checkpoint, save_checkpoint

CPU = torch.device("cpu")


def test_a_checkpoint_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    state = {"model": {"weight": torch.randn(3)}, "epoch": 4, "facts": {"names": ["a", "b"]}, "auc": float("nan")}
    save_checkpoint(state, tmp_path / "last.pt")
    loaded = load_checkpoint(tmp_path / "last.pt", CPU)
    assert torch.equal(loaded["model"]["weight"], state["model"]["weight"])
    assert (loaded["epoch"], loaded["facts"]) == (4, {"names": ["a", "b"]})


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


class Trap:
    """Something that must not be unpickled."""


def test_loading_a_checkpoint_executes_no_code(tmp_path: Path) -> None:
    torch.save({"format": FORMAT, "model": Trap()}, tmp_path / "best.pt")
    with pytest.raises(UserError, match="cannot be read as a checkpoint"):
        load_checkpoint(tmp_path / "best.pt", CPU)
