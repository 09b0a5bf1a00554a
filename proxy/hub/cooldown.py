"""Keeps the silence that the Hub asks for with a 429: its scope, its length, and a bound on memory."""

from collections.abc import Callable, Mapping
from typing import Final

from hubgate.wire import retry_after
from hubgate.wire.bounded_map import BoundedMap

MAXIMUM: Final = 300  # seconds; the Hub counts in windows of five minutes
DEFAULT: Final = 10.0  # seconds, where a 429 says nothing
MAX_ACCOUNTS: Final = 10_000  # that are remembered


class Cooldown:
    """Until when the Hub wants silence from whom. A key stands for a token, or for this proxy's address."""

    def __init__(self, clock: Callable[[], float], now: Callable[[], float]) -> None:
        """`clock` never goes back; `now` gives seconds since the epoch, which a date is compared with."""
        self._clock = clock
        self._now = now
        self._until: BoundedMap[bytes, float] = BoundedMap(MAX_ACCOUNTS)

    def wait(self, key: bytes) -> float:
        """Seconds that are left; 0 if it may be asked."""
        left = self._until.get(key, 0.0) - self._clock()
        if left <= 0:
            self._until.pop(key, None)
        return max(0.0, left)

    def keep(self, key: bytes, headers: Mapping[str, str]) -> float:
        """Begin one as these headers of a 429 ask; gives its seconds."""
        asked = retry_after.seconds(headers, self._now())
        seconds = DEFAULT if asked is None else float(min(asked, MAXIMUM))
        self._until.put(key, self._clock() + seconds)
        return seconds

    def __len__(self) -> int:
        return len(self._until)
