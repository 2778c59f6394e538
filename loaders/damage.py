"""What becomes of samples whose bytes are not those that prep wrote."""

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
from loaders.shards import DamagedSampleError
from loaders.stream import Request

Item = TypeVar("Item")

_STREAM = 4
_BLOCKS = 16  # four draws each; where so many stand-ins in a row are damaged, the shards are lost
_log = logging.getLogger(__name__)


class Damage:
    """The damaged samples of a run, as they are found.

    With the policy "fail" the first one raises. With "substitute" a training sample is replaced by another one of
    its stream, chosen by (epoch, sample) alone and so the same at any world size and from any tier; an evaluated one
    is masked, because nothing can stand in for a prediction. More than `limit` damaged samples raise as well.
    """

    def __init__(self, policy: OnBad, limit: int) -> None:
        self._policy = policy
        self._limit = limit
        self._lock = threading.Lock()
        self.found: dict[int, str] = {}

    def take(self, get: Callable[[Indices], list[Item]], request: Request, places: range) -> list[Item]:
        """What `get` has for the samples at `places` of `request`, or for the stand-ins that then take their places.

        `get` raises DamagedSampleError. The arrays index and valid of `request` are changed, so they must be its own.
        """
        try:
            return get(request.index[places.start : places.stop])
        except DamagedSampleError:
            return [self._take_one(get, request, place) for place in places]

    def _take_one(self, get: Callable[[Indices], list[Item]], request: Request, place: int) -> Item:
        own = int(request.index[place])
        for candidate in chain([own], self._stand_ins(request, own)):
            try:
                (item,) = get(np.array([candidate]))
            except DamagedSampleError as error:
                self._note(candidate, error)
                continue
            if candidate != own:
                request.index[place] = candidate
                request.valid[place] &= request.params is not None
            return item
        raise UserError(f"none of {4 * _BLOCKS} stand-ins for a damaged sample can be read: copy the shards again")

    def _note(self, index: int, error: DamagedSampleError) -> None:
        if self._policy == "fail":
            raise error
        with self._lock:
            known = index in self.found
            self.found[index] = str(error)
            count = len(self.found)
        if count > self._limit:
            raise UserError(f"{count} damaged samples are more than loader.max_bad={self._limit}; the last: {error}")
        if not known:
            _log.warning("%s (left out, damaged sample %d of at most %d)", error, count, self._limit)

    def _stand_ins(self, request: Request, index: int) -> Iterator[int]:
        words = random_words(0, _STREAM, request.epoch, np.array([index]), _BLOCKS)[0]
        for word in words.tolist():
            yield int(request.rows[word % len(request.rows)])
