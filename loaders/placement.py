"""Which renderer a machine gets, and its life from opening to closing."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from configs.schema import LoaderConfig, Placement
from loaders.dali import CpuDaliRenderer, GpuDaliRenderer, require_dali
from loaders.host import HostRenderer
from loaders.shards import ShardSet
from loaders.stream import Renderer


def chosen_placement(config: LoaderConfig, device: torch.device) -> tuple[Placement, str]:
    """The placement that `config` means on this machine, and why where it is not what a user would expect."""
    if config.placement != "auto":
        return config.placement, ""
    missing = require_dali()
    if missing is not None:
        return "host", missing
    return ("dali-gpu" if device.type == "cuda" else "dali-cpu"), ""


@contextmanager
def open_renderer(
    config: LoaderConfig, shards: ShardSet, batch_size: int, device: torch.device, *, threads: int
) -> Iterator[Renderer]:
    """The renderer that `config` names, for local batches of `batch_size`; `threads` where the config says 0."""
    placement, _ = chosen_placement(config, device)
    threads, prefetch = config.threads or threads, config.prefetch
    renderer: Renderer
    if placement == "host":
        renderer = HostRenderer(shards, batch_size, threads=threads, prefetch=prefetch, device=device)
    elif placement == "dali-cpu":
        renderer = CpuDaliRenderer(shards, batch_size, threads=threads, prefetch=prefetch, device=device)
    else:
        load = config.hw_decoder_load
        renderer = GpuDaliRenderer(
            shards, batch_size, threads=threads, prefetch=prefetch, device=device, hw_decoder_load=load
        )
    try:
        yield renderer
    finally:
        renderer.close()
