"""Keeps the silence that the Hub asks for with a 429: its scope, its length, and a bound on memory."""

import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Final

MAXIMUM: Final = 300  # seconds; the Hub counts in windows of five minutes
DEFAULT: Final = 10.0  # seconds, where a 429 says nothing
MAX_ACCOUNTS: Final = 10_000  # that are remembered

_SECONDS = re.compile(r"([0-9]{1,9})")
_RESET = re.compile(r"\bt=([0-9]{1,9})\b")


class Cooldown:
    """Until when whom is not spoken for. A key is what the Hub counts by: an account, or everybody."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._until: OrderedDict[bytes, float] = OrderedDict()

    def wait(self, key: bytes) -> float:
        """Seconds that are left; 0 if it may be asked."""
        left = self._until.get(key, 0.0) - self._clock()
        if left <= 0:
            self._until.pop(key, None)
        return max(0.0, left)

    def keep(self, key: bytes, headers: Mapping[str, str]) -> float:
        """Begin one as these headers of a 429 ask; gives its seconds."""
        seconds = asked_for(headers)
        self._until[key] = self._clock() + seconds
        self._until.move_to_end(key)
        while len(self._until) > MAX_ACCOUNTS:
            self._until.popitem(last=False)
        return seconds

    def __len__(self) -> int:
        return len(self._until)


def asked_for(headers: Mapping[str, str]) -> float:
    """Seconds: `Retry-After` (RFC 9110, section 10.2.3), or `t=` of the Hub's `RateLimit` header."""
    match = _SECONDS.fullmatch(headers.get("Retry-After", ""))
    match = match or _RESET.search(headers.get("RateLimit", ""))
    return float(min(MAXIMUM, int(match.group(1)))) if match else DEFAULT
