"""The loader: batches of a shard set, in the order of loaders/order.py, from the renderer that the config asks for.

    requests (which samples, what augmentation; pure functions)  ->  renderer (pixels)  ->  batches

The renderer works ahead of the consumer, across the end of an epoch into the next one.
"""

import time
from collections.abc import Generator, Sequence
from contextlib import closing
from typing import Literal, Self

import numpy as np
import torch

from configs.errors import UserError
from configs.schema import AugmentConfig, LoaderConfig, MetaKind, ProgressiveConfig
from loaders.batch import Batch
from loaders.cache import PixelCache
from loaders.damage import Damage
from loaders.meter import StageClock
from loaders.order import Indices, Partition
from loaders.placement import chosen_placement
from loaders.reader import Reader
from loaders.render_cache import CacheRenderer
from loaders.render_dali_cpu import CpuDaliRenderer
from loaders.render_dali_gpu import GpuDaliRenderer
from loaders.render_host import HostRenderer
from loaders.renderer import BlankRenderer, BySizeRenderer, Renderer
from loaders.request import Request, eval_requests, train_requests
from loaders.shards import ShardSet
from loaders.source import Source
from prep.metadata import hide_clinical

_FILL_BATCH = 64
Stream = Literal["train", "eval"]


class Loader:
    """Batches for one rank, as a context manager; training and evaluation may run at the same time, one stream each.

    placement: where samples are decoded and augmented; remarks: what the user should know about that and the cache.
    """

    def __init__(
        self,
        config: LoaderConfig,
        shards: ShardSet,
        rows: Indices,
        device: torch.device,
        *,
        threads: int,
        ranks_here: int = 1,
        images: bool = True,
        progressive: ProgressiveConfig | None = None,
    ) -> None:
        """Open a loader for the samples `rows` (int64) of `shards`, with batches on `device`.

        threads: host threads if the config says 0; ranks_here: ranks that share this machine's memory, each with a
        cache of its own; images: False for black images, without reading; progressive: which epochs train on smaller
        images. If the config asks for a cache, it is filled now. Raises UserError if this machine lacks what the config
        asks for, or if `rows` do not fit the cache.
        """
        self.placement, remark = chosen_placement(config, device)
        self.remarks = [f"loader.placement={self.placement}: {remark}"] if remark else []
        self._config = config
        self._shards = shards
        self._device = device
        self._threads = config.threads or threads
        self._source = Source(shards=shards, damage=Damage(config.on_bad, config.max_bad))
        # One for both streams: only one of them is consumed at a time, and the consumer needs a core too.
        self._reader = Reader(
            self._source,
            threads=max(1, self._threads - 1),
            ahead=config.prefetch,
            pinned=device.type == "cuda",
        )
        self._blank = not images
        self._progressive = progressive or ProgressiveConfig()
        self._streams: dict[Stream, Generator[Batch]] = {}
        self._renderers: dict[tuple[Stream, int], Renderer] = {}
        if config.cache != "none" and images:
            try:
                self._fill_cache(rows, ranks_here)
            except BaseException:
                self.close()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def train_batches(
        self,
        rows: Indices,
        partition: Partition,
        augment: AugmentConfig,
        *,
        meta: MetaKind = "clinical",
        seed: int,
        epochs: range,
        first_step: int = 0,
    ) -> Generator[Batch]:
        """Augmented batches of `rows` in the order of each of `epochs`, from `first_step` of the first epoch on.

        A new call ends the previous training stream.
        """
        requests = train_requests(
            rows,
            partition,
            augment,
            seed=seed,
            size=self._shards.size,
            epochs=epochs,
            first_step=first_step,
            progressive=self._progressive,
        )
        return self._stream("train", requests, partition, [meta])

    def eval_batches(
        self, rows: Indices, partition: Partition, *, meta: Sequence[MetaKind] = ("clinical",)
    ) -> Generator[Batch]:
        """Each of `rows` once, in their order, without augmentation; a new call ends the previous evaluation stream.

        With several kinds of `meta` vectors, their columns stand side by side in a batch, in the order given.
        """
        return self._stream("eval", eval_requests(rows, partition, self._shards.size), partition, meta)

    @property
    def clock(self) -> StageClock:
        """Where the loader's threads spent their time."""
        return self._source.clock

    @property
    def corrupt_samples(self) -> int:
        """Corrupt samples found so far."""
        return len(self._source.damage.found)

    def close(self) -> None:
        """End streams and threads, free buffers, drop the cache."""
        for stream in self._streams.values():
            stream.close()
        for renderer in self._renderers.values():
            renderer.close()
        self._reader.close()
        self._streams.clear()
        self._renderers.clear()
        self._source.cache = None

    def _stream(
        self, stream: Stream, requests: Generator[Request], partition: Partition, meta: Sequence[MetaKind]
    ) -> Generator[Batch]:
        if stream in self._streams:
            self._streams[stream].close()
        place = (stream, partition.local_batch_size)
        if place not in self._renderers:
            self._renderers[place] = self._renderer(partition.local_batch_size, self._device)
        self._streams[stream] = self._batches(self._renderers[place], requests, meta)
        return self._streams[stream]

    def _batches(self, renderer: Renderer, requests: Generator[Request], meta: Sequence[MetaKind]) -> Generator[Batch]:
        """Render `requests` and add what samples.parquet says about each sample."""
        shards, vectors = self._shards, {kind: self._shards.meta(kind) for kind in meta}
        # After an error its traceback keeps the requests, and with them threads that only their end ends.
        with closing(requests), closing(renderer.render(requests)) as rendered:
            for request, image in rendered:
                features = {kind: known[request.index] for kind, known in vectors.items()}
                if request.params is not None:
                    hidden = request.params.hide_meta
                    for kind, found in features.items():
                        found[hidden] = hide_clinical(kind, found[hidden])
                yield Batch(
                    epoch=request.epoch,
                    step=request.step,
                    image=image,
                    meta=torch.from_numpy(np.hstack(list(features.values()))),
                    target=torch.from_numpy(shards.target[request.index].astype(np.float32)),
                    diagnosis=torch.from_numpy(shards.diagnosis[request.index].astype(np.int64)),
                    index=torch.from_numpy(request.index.copy()),
                    valid=torch.from_numpy(request.valid.copy()),
                ).to(self._device)

    def _fill_cache(self, rows: Indices, ranks_here: int) -> None:
        name = self._config.cache
        if name == "gpu" and self.placement != "dali-gpu":
            raise UserError("loader.cache='gpu' needs a CUDA GPU and DALI: use --loader.cache ram")
        begin = time.perf_counter()
        place = self._device if name == "gpu" else torch.device("cpu")
        full, host = self._shards.size, torch.device("cpu")
        # What libjpeg-turbo decodes at a reduced scale is kept too.
        edges = {self._source.edge(self._progressive.size)} - {full} if self._progressive.epochs else set[int]()
        cache = PixelCache(rows, full, place, copies=ranks_here if name == "ram" else 1, edges=edges)
        self._fill(cache, full, self._renderer(_FILL_BATCH, self._device if self.placement == "dali-gpu" else host))
        for edge in edges:
            self._fill(cache, edge, self._host_renderer(_FILL_BATCH, host))
        self._source.cache = cache
        size, seconds = cache.bytes / 1e9, time.perf_counter() - begin
        self.remarks.append(f"loader.cache={name}: {len(cache.rows):,} images, {size:.1f} GB, in {seconds:.1f} s")

    def _fill(self, cache: PixelCache, edge: int, renderer: Renderer) -> None:
        partition = Partition(samples=len(cache.rows), batch_size=_FILL_BATCH, pad=False)
        requests = eval_requests(cache.rows, partition, edge)
        with closing(renderer), closing(renderer.render(requests)) as rendered:
            for request, images in rendered:
                start = request.step * _FILL_BATCH
                cache.store(start, images[: len(cache.rows) - start])

    def _host_renderer(self, batch_size: int, device: torch.device) -> HostRenderer:
        return HostRenderer(
            self._source, batch_size, threads=self._threads, prefetch=self._config.prefetch, device=device
        )

    def _renderer(self, batch_size: int, device: torch.device) -> Renderer:
        if self._blank:
            return BlankRenderer(batch_size, self._shards.size, device)
        config, source, threads, prefetch = self._config, self._source, self._threads, self._config.prefetch
        reader = self._reader
        if config.cache == "gpu" and source.cache is not None:
            return CacheRenderer(source, source.cache, batch_size, compiling=device.type == "cuda")
        if self.placement == "dali-gpu":
            return GpuDaliRenderer(
                source,
                reader,
                batch_size,
                decode=config.decode,
                threads=threads,
                prefetch=prefetch,
                device=device,
                hw_decoder_load=config.hw_decoder_load,
            )
        if self.placement == "dali-cpu" and source.cache is None:
            dali = CpuDaliRenderer(source, reader, batch_size, threads=threads, prefetch=prefetch, device=device)
            if not self._progressive.epochs:
                return dali
            # DALI decodes at full scale only, so smaller images are left to the host path.
            return BySizeRenderer(dali, self._host_renderer(batch_size, device), self._shards.size)
        return self._host_renderer(batch_size, device)
