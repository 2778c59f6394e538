"""Weights files of people: taken where they fit, and else refused with the cause and the remedy."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from configs.errors import UserError
from models.backbones import create_backbone
from models.weights import few, read_weights


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return dict(create_backbone("tiny", size=64, weights="none").module.state_dict())


def assert_taken(path: Path, state: dict[str, Tensor]) -> None:
    loaded = create_backbone("tiny", size=64, weights=str(path)).module.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in state.items())


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "model.", "backbone.net."])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
def test_prefixes_and_wrappers_are_taken_off(
    prefix: str, wrapper: str | None, state: dict[str, Tensor], tmp_path: Path
) -> None:
    saved: dict[str, Any] = {prefix + name: value for name, value in state.items()}
    torch.save(saved if wrapper is None else {wrapper: saved, "epoch": 3, "arch": "tiny"}, tmp_path / "w.pth")
    assert_taken(tmp_path / "w.pth", state)


@pytest.mark.parametrize("suffix", [".pt", ".bin", ".safetensors"])
def test_batch_counters_may_be_missing(suffix: str, state: dict[str, Tensor], tmp_path: Path) -> None:
    old = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    path = tmp_path / f"w{suffix}"
    if suffix == ".safetensors":
        save_file(old, path)
    else:
        torch.save(old, path)
    assert len(old) < len(state)
    assert_taken(path, old)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>virus scan warning</html>", "is a web page, not weights"),
        (b"\xef\xbb\xbf\n  <html>", "is a web page, not weights"),
        (b'{"error": "Repository not found"}', "is JSON text, not weights"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "is a Git LFS pointer"),
        (b"\x89HDF\r\n\x1a\n" + bytes(99), "is an HDF5 file"),
        (b"\x80\x02garbage", "not a file of torch.save, or cut off"),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_that_is_something_else_is_called_that(
    content: bytes, message: str, suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    if suffix == ".safetensors" and "torch.save" in message:
        message = "SafetensorError"
    with pytest.raises(UserError, match=message) as caught:
        read_weights(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [{"state_dict": {}, "auc": np.float64(0.9)}, torch.nn.Linear(1, 1)])
def test_python_objects_are_refused_and_no_remedy_would_run_them(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(
        UserError, match=r"holds Python objects \((numpy|torch)\.[\w.]+\).*save module\.state_dict"
    ) as caught:
        read_weights(tmp_path / "w.pth")
    assert "weights_only" not in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_flipped_bit_in_the_weights_is_noticed(state: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save(state, path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(UserError, match=r"is damaged \(in w/data/\d+\)"):
        read_weights(path)


def test_an_archive_of_other_files_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
        archive.writestr("readme.txt", "unpack me")
    with pytest.raises(UserError, match="is a zip archive of other files"):
        read_weights(tmp_path / "w.pth")


def test_weights_that_are_not_finite_are_refused_by_name(state: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save({**state, "conv_stem.weight": state["conv_stem.weight"] * float("inf")}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"holds NaN or infinity in conv_stem\.weight"):
        read_weights(tmp_path / "w.pth")


def test_what_does_not_fit_is_listed_in_a_few_names(tmp_path: Path) -> None:
    torch.save({f"layer{number}.weight": torch.zeros(1) for number in range(100)}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"of its 100 names 0 are the backbone's; missing .* and \d+ more;") as caught:
        create_backbone("tiny", size=64, weights=str(tmp_path / "w.pth"))
    assert len(str(caught.value)) < 500 + len(str(tmp_path))
    assert few(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"
