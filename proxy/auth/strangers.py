"""Protects the Hub's budget: how often a client may make us ask about tokens that the Hub refuses.

whoami is limited per address on the Hub, and a proxy asks from one address; without this, somebody
who tries random tokens would use up what good callers need. Only refusals count, so that an office
of good callers behind one address is never held up.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

WINDOW: Final = 60.0  # seconds
CLIENTS: Final = 10_000  # addresses that are remembered
CROWD: Final = 10  # all clients together may cause this many times what one may


@dataclass(slots=True)
class _Count:
    since: float
    refused: int = 0
    asking: int = 0


class Strangers:
    """Counts refusals and open questions per client address and in all, minute by minute."""

    def __init__(self, per_minute: int, clock: Callable[[], float]) -> None:
        self._per_minute = per_minute
        self._clock = clock
        self._counts: OrderedDict[str, _Count] = OrderedDict()
        self._all = _Count(clock())

    def begin(self, client: str) -> float | None:
        """Ask for leave to ask the Hub: `None`, or the seconds to wait. Pair it with `end`."""
        now = self._clock()
        count = self._counts.get(client)
        if count is None:
            count = self._counts[client] = _Count(now)
            self._shrink()
        self._counts.move_to_end(client)
        for one, most in ((count, self._per_minute), (self._all, self._per_minute * CROWD)):
            if now - one.since >= WINDOW:
                one.since, one.refused = now, 0
            if one.refused + one.asking >= most:
                return one.since + WINDOW - now
        count.asking += 1
        self._all.asking += 1
        return None

    def end(self, client: str, *, refused: bool) -> None:
        """Say how the question ended."""
        for one in (self._counts.get(client), self._all):
            if one is not None:
                one.asking = max(0, one.asking - 1)
                one.refused += refused

    def _shrink(self) -> None:
        while len(self._counts) > CLIENTS:
            self._counts.popitem(last=False)
