"""Which renderer a machine gets, and the life of all that a run reads its samples with."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

import torch

from configs.errors import UserError
from configs.schema import LoaderConfig, Placement
from loaders.cache import PixelCache
from loaders.dali import require_dali
from loaders.dali_cpu import CpuDaliRenderer
from loaders.dali_gpu import GpuDaliRenderer
from loaders.damage import Damage
from loaders.host import HostRenderer
from loaders.order import Indices, Partition
from loaders.shards import ShardSet
from loaders.source import Source
from loaders.stream import Renderer, eval_requests

_FILL_BATCH = 64


class Loader:
    """What one rank reads a shard set with: renderers that share a cache, a policy for damage and a clock.

    placement: the one that was chosen; remarks: what a person should know about the choice.
    """

    def __init__(self, config: LoaderConfig, shards: ShardSet, device: torch.device, *, threads: int) -> None:
        self.placement, remark = chosen_placement(config, device)
        self.remarks = [f"loader.placement={self.placement}: {remark}"] if remark else []
        self.source = Source(shards=shards, damage=Damage(config.on_bad, config.max_bad))
        self._config = config
        self._device = device
        self._threads = config.threads or threads
        self._renderers = ExitStack()

    def renderer(self, batch_size: int) -> Renderer:
        """A renderer for local batches of `batch_size`, closed with the loader."""
        return self._renderers.enter_context(closing(self._make(batch_size, self._device)))

    def fill_cache(self, rows: Indices, *, copies: int) -> None:
        """Decode every one of `rows` and keep its pixels. Raises UserError where they do not fit."""
        name = self._config.cache
        if name == "none":
            return
        if name == "gpu" and self.placement != "dali-gpu":
            raise UserError("loader.cache='gpu' needs a CUDA GPU and DALI: take --loader.cache ram")
        begin = time.perf_counter()
        place = self._device if name == "gpu" else torch.device("cpu")
        cache = PixelCache(rows, self.source.shards.size, place, copies=copies if name == "ram" else 1)
        partition = Partition(samples=len(cache.rows), batch_size=_FILL_BATCH)
        device = self._device if self.placement == "dali-gpu" else torch.device("cpu")
        with closing(self._make(_FILL_BATCH, device)) as renderer:
            for request, images in renderer.render(eval_requests(cache.rows, partition)):
                cache.store(request.step * _FILL_BATCH, images[: len(cache.rows) - request.step * _FILL_BATCH])
        self.source.cache = cache
        size = cache.pixels.numel() / 1e9
        seconds = time.perf_counter() - begin
        self.remarks.append(f"loader.cache={name}: {len(cache.rows):,} images, {size:.1f} GB, in {seconds:.1f} s")

    def close(self) -> None:
        """End threads, give buffers back, forget the cache."""
        self._renderers.close()
        self.source.cache = None

    def _make(self, batch_size: int, device: torch.device) -> Renderer:
        source, threads, prefetch = self.source, self._threads, self._config.prefetch
        if self.placement == "dali-gpu":
            return GpuDaliRenderer(
                source,
                batch_size,
                decode=self._config.decode,
                threads=threads,
                prefetch=prefetch,
                device=device,
                hw_decoder_load=self._config.hw_decoder_load,
            )
        if self.placement == "dali-cpu" and source.cache is None:
            return CpuDaliRenderer(source, batch_size, threads=threads, prefetch=prefetch, device=device)
        return HostRenderer(source, batch_size, threads=threads, prefetch=prefetch, device=device)


def chosen_placement(config: LoaderConfig, device: torch.device) -> tuple[Placement, str]:
    """The placement that `config` means on this machine, and why where it is not what a user would expect."""
    missing = require_dali()
    if config.placement == "auto":
        if device.type != "cuda":
            return "host", ""
        return ("host", missing) if missing else ("dali-gpu", "")
    if config.placement == "dali-gpu" and device.type != "cuda":
        raise UserError("loader.placement='dali-gpu' needs a CUDA GPU: take dali-cpu, host or auto")
    if config.placement != "host" and missing:
        raise UserError(missing)
    return config.placement, ""


@contextmanager
def open_loader(
    config: LoaderConfig, shards: ShardSet, rows: Indices, device: torch.device, *, threads: int, copies: int = 1
) -> Iterator[Loader]:
    """A loader for the samples `rows`, its cache filled; `threads` where the config says 0.

    `copies` is the number of ranks that share this machine's memory, each with a cache of its own.
    """
    loader = Loader(config, shards, device, threads=threads)
    try:
        loader.fill_cache(rows, copies=copies)
        yield loader
    finally:
        loader.close()
