"""A batch: what the model sees, and what the shard set knows about it."""

from dataclasses import dataclass, replace

import torch

TENSORS = ("image", "meta", "target", "diagnosis", "index", "valid")
"""The fields of a Batch that are tensors, one row per sample."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One rank's share of a global batch, b samples, all on one device.

    epoch, step: its position in the stream, from 0; image: uint8 [b, H, W, 3], whose memory may be reused for the batch
    after the next; meta: float32 [b, M]; target: float32 [b], -1 where unknown; diagnosis: int64 [b], an index into
    prep.diagnosis.CLASSES; index: int64 [b], the samples' row numbers in the shard set; valid: bool [b], False for
    padding and for corrupt samples in an evaluation.
    """

    epoch: int
    step: int
    image: torch.Tensor
    meta: torch.Tensor
    target: torch.Tensor
    diagnosis: torch.Tensor
    index: torch.Tensor
    valid: torch.Tensor

    def to(self, device: torch.device) -> "Batch":
        """The same batch on `device`; no copy waits for the device."""
        if device.type != "cuda":
            return self
        small = {name: getattr(self, name).pin_memory() for name in TENSORS if name != "image"}
        parts = {"image": self.image, **small}
        return replace(self, **{name: part.to(device, non_blocking=True) for name, part in parts.items()})
