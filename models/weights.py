"""Weights that the user gives (--weights FILE): read without running code, unwrapped, and compared with a network."""

import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from configs.errors import UserError

SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".safetensors")
_SHOWN = 3  # names in a message, of those that may be hundreds
_COUNTER = "num_batches_tracked"  # of a batch norm: older files have none, and nothing in this project reads it
_WRAPPERS = ("state_dict", "model_state_dict", "model", "network", "net")
_REMEDY = "give another file, or pass --weights none"
# What a file begins with that is something else.
_OTHERS = {
    b"version https://git-lfs": "is a Git LFS pointer, not the weights themselves: fetch them with git lfs pull",
    b"<": "is a web page, not weights: download the file itself, for example with its raw or resolve link",
    b"{": "is JSON text, not weights: download the file itself",
    b"\x89HDF": "is an HDF5 file (Keras), which holds no PyTorch weights",
    b"\x1f\x8b": "is compressed with gzip: unpack it first",
}


def read_weights(path: Path) -> dict[str, Tensor]:
    """Names and finite tensors of a weights file, on the CPU, without the wrappers that trainers put around them.

    A dict that holds the state dict, beside the epoch and the like, and a first word that all names share (module. of
    DistributedDataParallel, _orig_mod. of torch.compile, and the like) are wrappers; `unprefixed` takes off the latter.
    Raises UserError, naming cause and remedy, for a file that is anything else.
    """
    if path.suffix not in SUFFIXES:
        raise UserError(f"weights={str(path)!r} is not valid: give auto, none, or a .pth or .safetensors file")
    if not path.is_file():
        raise UserError(f"weights file {path} does not exist: give an existing file, or pass --weights none")
    with path.open("rb") as file:
        head = file.read(64)
    if b"\0" not in head:  # text, perhaps behind blanks; a file of tensors has zeros at its start
        head = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    other = next((what for start, what in _OTHERS.items() if head.startswith(start)), None if head else "is empty")
    if other is not None:
        raise UserError(f"weights file {path} {other}; {_REMEDY}")
    state = _state_dict(_safetensors(path) if path.suffix == ".safetensors" else _pickled(path))
    if not state:
        raise UserError(f"weights file {path} holds no state dict (names to tensors): save module.state_dict() alone")
    wrong = [name for name, value in state.items() if not value.isfinite().all()]
    if wrong:
        raise UserError(f"weights file {path} holds NaN or infinity in {few(wrong)}: {_REMEDY}")
    return state


def unprefixed(state: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`state` without the first words that all names share, as long as no name is one of `own`."""
    while not state.keys() & own.keys() and len({name.partition(".")[0] for name in state}) == 1:
        inner = {name.partition(".")[2]: value for name, value in state.items()}
        if "" in inner or len(inner) < len(state):
            break
        state = inner
    return state


def misfits(own: Mapping[str, Tensor], given: Mapping[str, Any], *, counters: bool = True) -> str:
    """Names and shapes by which `given` is not a state dict like `own`, a few of each kind; empty if it fits.

    counters: whether the batch counters of batch norms must be given too, which torch does without.
    """
    both = [name for name in given if name in own]
    shapes = [
        f"{name} is {list(given[name].shape)}, not {list(own[name].shape)}"
        for name in both
        if own[name].shape != given[name].shape
    ]
    missing = [name for name in own if name not in given and (counters or not name.endswith(_COUNTER))]
    unexpected = [name for name in given if name not in own]
    kinds = {"missing": missing, "unexpected": unexpected, "shape of": shapes}
    return "; ".join(f"{kind} {few(names)}" for kind, names in kinds.items() if names)


def few(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def cause(error: Exception) -> str:
    """An error in a few words, on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _safetensors(path: Path) -> object:
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except Exception as error:  # of its own kinds
        raise UserError(f"weights file {path} cannot be read ({cause(error)}): {_REMEDY}") from error


def _pickled(path: Path) -> object:
    """What torch.save wrote, tensors and plain Python values only."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()  # which torch does not check
                names = [Path(name).name for name in archive.namelist()]
            if damaged is not None:
                raise UserError(f"weights file {path} is damaged (in {damaged}): copy or download it again")
            if "constants.pkl" in names or "data.pkl" not in names:
                what = "a TorchScript model" if "constants.pkl" in names else "a zip archive of other files"
                raise UserError(f"weights file {path} is {what}: save module.state_dict() alone, or unpack it")
        return torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    # A corrupt file raises whatever its reader fails on first: struct, zip, pickle, key and runtime errors.
    except Exception as error:
        # torch's own words recommend to load such a file all the same, which would run code from it.
        kind = re.search(r"(?:GLOBAL|global:?|class) ([\w.]+\.[\w.]+)", str(error))
        if kind is not None:
            raise UserError(
                f"weights file {path} holds Python objects ({kind[1]}), which are not loaded because they could run "
                "code: save module.state_dict() alone where it was made"
            ) from error
        reason = "not a file of torch.save, or cut off" if "Weights only" in str(error) else cause(error)
        raise UserError(f"weights file {path} cannot be read ({reason}): {_REMEDY}") from error


def _state_dict(content: object) -> dict[str, Tensor]:
    """The state dict in `content`, at most two wrappers deep; empty if there is none."""
    for _ in range(3):
        if not isinstance(content, Mapping):
            break
        state = {name: value for name, value in content.items() if name != "n_averaged"}  # of torch's AveragedModel
        if all(isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()):
            return state
        content = next((content[name] for name in _WRAPPERS if name in content), None)
    return {}
