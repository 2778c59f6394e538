"""Makes `import timm` work where torchvision's compiled library does not fit a CPU build of torch."""

import functools
import importlib.util
from pathlib import Path

import torch

_MISSING = ("nms", "qnms")


@functools.cache
def define_missing_operators() -> torch.library.Library | None:
    """Declare the two operators that torchvision's Python code refers to at import; call it before importing timm.

    torchvision's wheel links to CUDA. On a CPU build of torch its `_C` library does not load, and then
    `import torchvision` fails with "operator torchvision::nms does not exist". Nothing here calls these box
    operators, so a signature without a kernel is enough.

    Returns the library that holds the declarations (the cache keeps it alive: they vanish with it), or None
    if nothing was done: on a CUDA build, without torchvision, or if the operators already exist.
    """
    if torch.version.cuda is not None or hasattr(torch.ops.torchvision, "nms") or _compiled_library_loads():
        return None
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for name in _MISSING:
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
    return library


def _compiled_library_loads() -> bool:
    """Whether torchvision's `_C` loads here; True without torchvision, whose absence timm reports best."""
    package = importlib.util.find_spec("torchvision")
    if package is None or package.origin is None:
        return True
    libraries = sorted(Path(package.origin).parent.glob("_C*.so"))
    try:
        for library in libraries:
            torch.ops.load_library(str(library))  # type: ignore[no-untyped-call]
    except OSError:
        return False
    return bool(libraries)
