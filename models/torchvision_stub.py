"""Makes `import timm` work where torchvision's compiled library does not fit a CPU build of torch."""

import functools
from importlib import import_module

import torch


@functools.cache
def define_missing_operators() -> torch.library.Library | None:
    """Declare the two operators that torchvision's Python code refers to at import; call it before importing timm.

    torchvision's wheel links to CUDA. On a CPU build of torch its compiled library does not load, and then
    `import torchvision` fails with "operator torchvision::nms does not exist". Nothing here calls these box
    operators, so a signature without a kernel is enough.

    Returns the library that holds the declarations (the cache keeps it alive: they vanish with it), or None
    if nothing was done: torchvision can be imported, or is not installed, which timm reports best.
    """
    try:
        import_module("torchvision")
    except ImportError:
        return None
    except RuntimeError as error:
        if "does not exist" not in str(error):
            raise
    else:
        return None
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
    return library
