"""Protects the Hub's budget: how often a client may make us ask about tokens that the Hub refuses.

whoami is limited per address on the Hub, and a proxy asks from one address; without this, somebody
who tries random tokens would use up what good callers need. Only refusals count, so that an office
of good callers behind one address is never held up.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from hubgate.proxy.http.client_address import group
from hubgate.wire.bounded_map import BoundedMap

WINDOW: Final = 60.0  # seconds
MAX_CLIENTS: Final = 10_000  # that are remembered
REPEATERS_FACTOR: Final = (
    10  # clients that were refused already may together cause this many times what one may
)
NEWCOMERS_FACTOR: Final = 40  # and the first refusals of all clients come to this many times that


@dataclass(slots=True)
class _Count:
    since: float
    refused: int = 0
    asking: int = 0


@dataclass(frozen=True, slots=True)
class Slot:
    """A place for one question: where it counts."""

    mine: _Count
    shared: _Count


class UnknownTokenLimiter:
    """Counts refusals per client and in all, minute by minute.

    The first question of a client does not count with those of clients that were refused already: a
    crowd that goes on trying uses up its own budget, and not that of somebody new.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float]) -> None:
        self._per_minute = per_minute
        self._clock = clock
        self._counts: BoundedMap[str, _Count] = BoundedMap(MAX_CLIENTS)
        self._repeaters = _Count(clock())
        self._newcomers = _Count(clock())
        self._answered = asyncio.Event()  # set by the next answer, and then replaced

    async def begin(self, client: str) -> Slot | float:
        """Take a place to ask the Hub, or get the seconds to wait. Each place has its `end`.

        Where the questions under way could use up the budget if all were refused, it waits for their
        answers: a burst of good tokens passes, a burst of junk ends at the budget.
        """
        while True:
            mine = self._count(group(client))
            self._turn(mine)
            new = mine.refused == mine.asking == 0
            shared = self._newcomers if new else self._repeaters
            times = NEWCOMERS_FACTOR if new else REPEATERS_FACTOR
            self._turn(shared)
            budgets = ((mine, self._per_minute), (shared, self._per_minute * times))
            for count, most in budgets:
                if count.refused >= most:
                    return count.since + WINDOW - self._clock()
            if all(count.refused + count.asking < most for count, most in budgets):
                mine.asking += 1
                shared.asking += 1
                return Slot(mine, shared)
            await self._answered.wait()

    def end(self, slot: Slot, *, refused: bool) -> None:
        """Say how the question ended."""
        for count in (slot.mine, slot.shared):
            count.asking -= 1
            count.refused += refused
        self._answered.set()
        self._answered = asyncio.Event()

    def _turn(self, count: _Count) -> None:
        if self._clock() - count.since >= WINDOW:
            count.since, count.refused = self._clock(), 0

    def _count(self, client: str) -> _Count:
        count = self._counts.get(client) or _Count(self._clock())
        self._counts.put(client, count)
        return count
