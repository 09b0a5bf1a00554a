"""What callers were refused for want of room: who asks again sooner than they were told hears it from here.

So a client that tries again without a pause makes no work for engines and disk, and is no more often next.
"""

from collections.abc import Callable

import msgspec

from hubgate.backend.fairness.line import OPERATOR
from hubgate.wire.bounded_map import BoundedMap
from hubgate.wire.control_api import LoadFailed

MEMORY = 10_000  # refusals
LONGEST = 10.0  # seconds; there may be room sooner than was told
_OF_ROOM = ("no_capacity", "store_full")


class Refusals:
    """By caller and model, on a clock in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._known: BoundedMap[tuple[str, str], tuple[float, LoadFailed]] = BoundedMap(MEMORY)

    def add(self, caller: str, model: str, failed: LoadFailed) -> None:
        """This caller was told to come again later."""
        if failed.code in _OF_ROOM and failed.retry_after and caller != OPERATOR:
            bare = msgspec.structs.replace(failed, downloads=(), evicted=())
            self._known.put((caller, model), (self._clock() + min(failed.retry_after, LONGEST), bare))

    def find(self, caller: str, model: str) -> LoadFailed | None:
        """What they were told, if it is too soon to ask again."""
        until, failed = self._known.get((caller, model), (0.0, None))
        return failed if self._clock() < until else None
