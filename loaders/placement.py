"""Where samples can be decoded and augmented on this machine, and which of these placements a config selects."""

import torch

from configs.errors import UserError
from configs.schema import LoaderConfig, Placement
from loaders.dali_pipeline import require_dali


def available_placements(device: torch.device) -> list[Placement]:
    """The placements that work for training on `device`, the one with the fewest requirements first."""
    if require_dali():
        return ["host"]
    return ["host", "dali-cpu", "dali-gpu"] if device.type == "cuda" else ["host", "dali-cpu"]


def chosen_placement(config: LoaderConfig, device: torch.device) -> tuple[Placement, str]:
    """The placement that `config` selects for `device`, and the reason if the user would expect another one.

    Raises UserError if it is not available.
    """
    available = available_placements(device)
    if config.placement == "auto":
        if device.type == "cuda":
            return ("dali-gpu", "") if "dali-gpu" in available else ("host", require_dali() or "")
        return "host", ""
    if config.placement in available:
        return config.placement, ""
    if config.placement == "dali-gpu" and device.type != "cuda":
        raise UserError("loader.placement='dali-gpu' needs a CUDA GPU: use dali-cpu, host or auto")
    raise UserError(require_dali() or f"loader.placement={config.placement!r} is not available on this machine")
