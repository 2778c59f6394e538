"""What every renderer of a run reads from: shards, the pictures kept, the policy for damaged samples, the clock."""

from dataclasses import dataclass, field

from configs.errors import UserError
from loaders.cache import PixelCache
from loaders.damage import Damage
from loaders.meter import StageClock
from loaders.order import Indices
from loaders.pixels import Pixels
from loaders.shards import DamagedSampleError, ShardSet
from loaders.stream import Request


@dataclass(kw_only=True)
class Source:
    """Samples by request and place; damaged ones are dealt with, which may change the request's index and valid."""

    shards: ShardSet
    damage: Damage
    clock: StageClock = field(default_factory=StageClock)
    cache: PixelCache | None = None

    def jpegs(self, request: Request, places: range) -> list[memoryview]:
        """The checked JPEG bytes of the samples at `places`, or of their stand-ins."""
        return self.damage.take(self.shards.jpegs, request, places)

    def pictures(self, request: Request, places: range) -> list[Pixels]:
        """The pictures of the same samples from the cache on the CPU, each uint8 [size, size, 3]."""
        assert self.cache is not None
        self.settle(request, places)
        return [self.cache.picture(index) for index in request.index[places.start : places.stop].tolist()]

    def settle(self, request: Request, places: range) -> None:
        """Put stand-ins at `places` where samples were found damaged when the cache was filled."""
        if self.damage.found:
            self.damage.take(self._known_good, request, places)

    def undecodable(self, index: int, error: Exception) -> UserError:
        """The error for a sample whose bytes are whole and yet no picture: prep checks that, so nothing stands in."""
        key = self.shards.key[index]
        return UserError(f"{self.shards.folder}: sample {key} cannot be decoded: {error}; make the shard set anew")

    def _known_good(self, index: Indices) -> list[None]:
        for one in index.tolist():
            if one in self.damage.found:
                raise DamagedSampleError(self.damage.found[one])
        return [None] * len(index)
