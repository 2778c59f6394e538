"""What every renderer of a run reads from: the shards, the cached images, the policy for corrupt samples, the clock."""

from dataclasses import dataclass, field

from configs.errors import UserError
from loaders.cache import PixelCache
from loaders.damage import Damage
from loaders.decode import Pixels, decoded_edge
from loaders.meter import StageClock
from loaders.order import Indices
from loaders.request import Request, StandIns
from loaders.shards import CorruptSampleError, ShardSet


@dataclass(kw_only=True)
class Source:
    """Samples by request and place, with the stand-ins that replace corrupt ones (see loaders.damage.Damage)."""

    shards: ShardSet
    damage: Damage
    clock: StageClock = field(default_factory=StageClock)
    cache: PixelCache | None = None

    def jpegs(self, request: Request, places: range) -> tuple[list[bytes], StandIns]:
        """The checked JPEG bytes of the samples at `places`, or of their stand-ins."""
        return self.damage.take(self.shards.jpegs, request, places)

    def images(self, request: Request, places: range) -> tuple[list[Pixels], StandIns]:
        """The images of the same samples from the cache on the CPU, each uint8 [edge, edge, 3]."""
        edge = self.edge(request.size)
        return self.damage.take(lambda index: self._cached(index, edge), request, places)

    def edge(self, size: int) -> int:
        """The edge, in pixels, at which images of `size` x `size` pixels are decoded."""
        return decoded_edge(size, self.shards.size)

    def stand_ins(self, request: Request) -> StandIns:
        """The stand-ins for the samples that were found corrupt when the cache was filled."""
        return self.damage.take(self._known_good, request, range(len(request.index)))[1] if self.damage.found else {}

    def undecodable(self, index: int, error: Exception) -> UserError:
        """The error for a sample whose bytes are intact but cannot be decoded: prep rules that out, so it is fatal."""
        name = self.shards.sample_name(index)
        return UserError(f"{name} cannot be decoded: {error}; build the shard set again")

    def _cached(self, index: Indices, edge: int) -> list[Pixels]:
        assert self.cache is not None
        self._known_good(index)
        return [self.cache.image(number, edge) for number in index.tolist()]

    def _known_good(self, index: Indices) -> list[None]:
        if self.damage.found:
            for number in index.tolist():
                if number in self.damage.found:
                    raise CorruptSampleError(self.damage.found[number])
        return [None] * len(index)
