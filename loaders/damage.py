"""What to do with corrupt samples, whose bytes are not those that prep wrote."""

import logging
import threading
from collections.abc import Callable, Iterator
from itertools import chain
from typing import TypeVar

import numpy as np

from configs.errors import UserError
from configs.schema import OnBad
from loaders.counter import random_words
from loaders.order import Indices
from loaders.request import Request, StandIns
from loaders.shards import CorruptSampleError

Item = TypeVar("Item")

_STREAM = 4
_BLOCKS = 16  # of four draws each: if that many stand-ins in a row are corrupt, the shards are lost
_log = logging.getLogger(__name__)


class Damage:
    """The corrupt samples of a run, as they are found.

    With the policy "fail" the first one raises. With "substitute" a training sample is replaced by another one of
    its stream, chosen by (epoch, sample) alone and so the same at any world size and placement; an evaluation sample
    is masked, because no other one can replace its prediction. More than `limit` corrupt samples raise too.
    """

    def __init__(self, policy: OnBad, limit: int) -> None:
        self._policy = policy
        self._limit = limit
        self._lock = threading.Lock()
        self.found: dict[int, str] = {}

    def take(
        self, get: Callable[[Indices], list[Item]], request: Request, places: range
    ) -> tuple[list[Item], StandIns]:
        """What `get` returns for the samples at `places` of `request`, or for their stand-ins; and these stand-ins.

        `get` must raise CorruptSampleError for a corrupt sample.
        """
        try:
            return get(request.index[places.start : places.stop]), {}
        except CorruptSampleError:
            pass
        stand_ins: dict[int, int] = {}
        items = []
        for place in places:
            own = int(request.index[place])
            item, used = self._get_one(get, request, own)
            items.append(item)
            if used != own:
                stand_ins[place] = used
        return items, stand_ins

    def _get_one(self, get: Callable[[Indices], list[Item]], request: Request, own: int) -> tuple[Item, int]:
        for candidate in chain([own], self._candidates(request, own)):
            try:
                return get(np.array([candidate]))[0], candidate
            except CorruptSampleError as error:
                self._note(candidate, error)
        raise UserError(f"{4 * _BLOCKS} stand-ins for a corrupt sample are corrupt too: copy the shard set again")

    def _note(self, index: int, error: CorruptSampleError) -> None:
        if self._policy == "fail":
            raise error
        with self._lock:
            known = index in self.found
            self.found[index] = str(error)
            count = len(self.found)
        if count > self._limit:
            raise UserError(f"{count} corrupt samples exceed loader.max_bad={self._limit}; the last one: {error}")
        if not known:
            _log.warning("%s (left out, corrupt sample %d of at most %d)", error, count, self._limit)

    def _candidates(self, request: Request, index: int) -> Iterator[int]:
        words = random_words(0, _STREAM, request.epoch, np.array([index]), _BLOCKS)[0]
        for word in words.tolist():
            yield int(request.rows[word % len(request.rows)])
