from pathlib import Path

import pytest
import torch

from configs.errors import UserError
from engine.checkpoint import load_checkpoint, save_checkpoint

CPU = torch.device("cpu")


def test_a_checkpoint_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    state = {"model": {"weight": torch.randn(3)}, "epoch": 4, "facts": {"names": ["a", "b"]}, "auc": float("nan")}
    save_checkpoint(state, tmp_path / "last.pt")
    loaded = load_checkpoint(tmp_path / "last.pt", CPU)
    assert torch.equal(loaded["model"]["weight"], state["model"]["weight"])
    assert (loaded["epoch"], loaded["facts"]) == (4, {"names": ["a", "b"]})


def test_a_failed_save_leaves_the_last_good_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint({"epoch": 1}, path)

    def full_disk(_: object, file: object) -> None:
        file.write(b"half a checkpoint")  # type: ignore[attr-defined]
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint({"epoch": 2}, path)
    assert load_checkpoint(path, CPU)["epoch"] == 1


@pytest.mark.parametrize("content", [b"", b"no checkpoint at all", b"PK\x03\x04 torn off"])
def test_a_file_that_is_no_checkpoint_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "best.pt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"best\.pt cannot be read as a checkpoint"):
        load_checkpoint(path, CPU)


class Trap:
    """Something that must not be unpickled."""


def test_nothing_in_a_checkpoint_is_run(tmp_path: Path) -> None:
    torch.save({"format": 1, "model": Trap()}, tmp_path / "best.pt")
    with pytest.raises(UserError, match="cannot be read as a checkpoint"):
        load_checkpoint(tmp_path / "best.pt", CPU)
