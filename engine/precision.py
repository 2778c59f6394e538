"""The floating-point precision of the forward pass."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from configs.schema import Precision


def chosen_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """What autocast casts to; float32 means no autocast. auto: float32 on a CPU, on a GPU native bf16 or else fp16."""
    known = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if precision != "auto":
        return known[precision]
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def autocast_of(dtype: torch.dtype, device: torch.device) -> Callable[[], AbstractContextManager[Any]]:
    """A context for the forward pass: autocast to `dtype`, or nothing for float32."""
    if dtype == torch.float32:
        return nullcontext
    return lambda: torch.autocast(device.type, dtype=dtype)
