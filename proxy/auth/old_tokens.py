"""Counts the different tokens over the age limit that were seen within a day."""

from collections.abc import Callable
from typing import Final

from hubgate.wire.bounded_map import BoundedMap

DAY: Final = 86400.0  # seconds
CAPACITY: Final = 100_000


class OldTokenGauge:
    """Remembers fingerprints only; forgets each a day after it was last seen."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._seen: BoundedMap[str, float] = BoundedMap(CAPACITY)

    def seen(self, fingerprint: str) -> None:
        """Note one use of a token that is over age."""
        self._seen.put(fingerprint, self._now())

    def count(self) -> int:
        """How many there are now."""
        horizon = self._now() - DAY
        while self._seen and next(iter(self._seen.values())) < horizon:
            self._seen.popitem(last=False)
        return len(self._seen)
