"""What turns requests into images; each implementation is a file render_*.py."""

from collections.abc import Generator, Iterable
from itertools import groupby
from typing import Protocol

import torch

from loaders.request import Request

Rendered = Generator[tuple[Request, torch.Tensor]]
"""Each request, with stand-ins where samples were corrupt, and its images, uint8 [b, size, size, 3] on the device, with
the request's size."""


class Renderer(Protocol):
    """Decodes and augments, in order and ahead of the consumer."""

    def render(self, requests: Iterable[Request]) -> Rendered:
        """Render `requests`; must be closed or exhausted before it is called again and before `close`."""
        ...

    def close(self) -> None:
        """End threads and free buffers."""
        ...


class BlankRenderer:
    """Black images and no reading, for a model that uses metadata only."""

    def __init__(self, batch_size: int, size: int, device: torch.device) -> None:
        self._image = torch.zeros(batch_size, size, size, 3, dtype=torch.uint8, device=device)

    def render(self, requests: Iterable[Request]) -> Rendered:
        """Each request with the same black images."""
        for request in requests:
            yield request, self._image[: len(request.index)]

    def close(self) -> None:
        """Nothing to close."""


class BySizeRenderer:
    """Images of `size` x `size` pixels from `full`, others from `smaller`, one after the other."""

    def __init__(self, full: Renderer, smaller: Renderer, size: int) -> None:
        self._renderers = {True: full, False: smaller}
        self._size = size

    def render(self, requests: Iterable[Request]) -> Rendered:
        """See Renderer."""
        for whole, some in groupby(requests, lambda request: request.size == self._size):
            yield from self._renderers[whole].render(some)

    def close(self) -> None:
        """Close both."""
        for renderer in self._renderers.values():
            renderer.close()
