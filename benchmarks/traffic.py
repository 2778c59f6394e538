"""How many bytes a training step moves by the shapes of its tensors, and so how fast memory lets it be.

A model, not a measurement: every operation reads its inputs and writes its outputs once, whatever caches hold. But a
batch norm reads its input twice, and its backward both of its inputs, for the statistics come first; and the backward
of a convolution reads the gradient of its output twice, for the input's and for the weights'.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.rounds import Spread

_PRODUCTS = ("convolution", "mm", "addmm", "bmm", "baddbmm")
_NORMS = ("batch_norm", "layer_norm", "group_norm")


class Traffic(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of every operation within it.

    eager: all of them, an operation at a time; fused: convolutions, matrix products and norms alone, everything else
    done within their passes; ideal: convolutions and matrix products alone.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.eager = self.fused = self.ideal = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do the operation and count it."""
        found = func(*args, **(kwargs or {}))
        if func.is_view:
            return found
        name = func.overloadpacket.__name__
        inputs, outputs = _tensors((args, kwargs)), _tensors(found)
        moved = _bytes([*inputs, *outputs])
        is_norm = any(word in name for word in _NORMS)
        if is_norm:
            moved += _bytes([each for each in inputs if each.ndim > 1])
        elif name == "convolution_backward":
            moved += _bytes(inputs[:1])
        is_product = any(name in (word, f"{word}_backward", f"_{word}") for word in _PRODUCTS)
        self.eager += moved
        self.fused += moved * (is_norm or is_product)
        self.ideal += moved * is_product
        return found


def attainable(step: Callable[[], object], images: int, reached: dict[str, Spread]) -> dict[str, dict[str, float]]:
    """Of a step over so many images: MB an image, and the images/s at which memory would be busy all the time.

    `reached` is what `limits` measured; copies within GPU memory count where there are any.
    """
    with Traffic() as found:
        step()
    name = "gpu_memory_gb_per_s" if "gpu_memory_gb_per_s" in reached else "memory_gb_per_s"
    moved = {way: getattr(found, way) / images for way in ("eager", "fused", "ideal")}
    return {
        "mb_per_image": {way: round(each / 1e6, 1) for way, each in moved.items()},
        "images_per_s": {way: round(1e9 * reached[name]["median"] / each, 1) for way, each in moved.items()},
    }


def _tensors(tree: Any) -> list[Tensor]:
    return [each for each in tree_leaves(tree) if isinstance(each, Tensor)]


def _bytes(tensors: list[Tensor]) -> int:
    return sum(each.numel() * each.element_size() for each in {id(each): each for each in tensors}.values())
