"""Who was refused a place for an adapter and asks again sooner than they were told: they hear it from here.

So a client that tries again without a pause makes no work for an engine, and closes nobody's adapters. Other
refusals may be over at any moment, and are not remembered.
"""

from collections.abc import Callable

import msgspec

from hubgate.backend.fairness.line import OPERATOR
from hubgate.wire.bounded_map import BoundedMap
from hubgate.wire.control_api import LoadFailed

MEMORY = 10_000  # refusals
LONGEST = 10.0  # seconds; there may be room sooner than was told


class Refusals:
    """By caller and model, on a clock in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._known: BoundedMap[tuple[str, str], tuple[float, LoadFailed]] = BoundedMap(MEMORY)

    def add(self, caller: str, model: str, failed: LoadFailed) -> None:
        """This caller was told to come again later."""
        of_places = failed.code == "no_capacity" and failed.stage == "loading"
        if of_places and (failed.retry_after or 0) >= LONGEST and caller != OPERATOR:
            bare = msgspec.structs.replace(failed, downloads=(), evicted=())
            self._known.put((caller, model), (self._clock() + LONGEST, bare))

    def find(self, caller: str, model: str) -> LoadFailed | None:
        """What they were told, if it is too soon to ask again."""
        until, failed = self._known.get((caller, model), (0.0, None))
        return failed if self._clock() < until else None
