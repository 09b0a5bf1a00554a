"""Protects the Hub's budget: how often a client may make us ask about tokens that the Hub refuses.

whoami is limited per address on the Hub, and a proxy asks from one address; without this, somebody
who tries random tokens would use up what good callers need. Only refusals count, so that an office
of good callers behind one address is never held up.
"""

import asyncio
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
    """Counts refusals per client address and in all, minute by minute."""

    def __init__(self, per_minute: int, clock: Callable[[], float]) -> None:
        self._per_minute = per_minute
        self._clock = clock
        self._counts: OrderedDict[str, _Count] = OrderedDict()
        self._all = _Count(clock())
        self._answered = asyncio.Condition()

    async def begin(self, client: str) -> float | None:
        """Ask for leave to ask the Hub: `None`, or the seconds to wait. Pair a leave with `end`.

        Where the questions under way could use up the budget if all were refused, it waits for their
        answers: a burst of good tokens passes, a burst of junk ends at the budget.
        """
        async with self._answered:
            while True:
                mine = self._count(client)
                budgets = ((mine, self._per_minute), (self._all, self._per_minute * CROWD))
                for count, most in budgets:
                    self._turn(count)
                    if count.refused >= most:
                        return count.since + WINDOW - self._clock()
                if all(count.refused + count.asking < most for count, most in budgets):
                    mine.asking += 1
                    self._all.asking += 1
                    return None
                await self._answered.wait()

    async def end(self, client: str, *, refused: bool) -> None:
        """Say how the question ended."""
        async with self._answered:
            for count in (self._count(client), self._all):
                count.asking = max(0, count.asking - 1)
                count.refused += refused
            self._answered.notify_all()

    def _turn(self, count: _Count) -> None:
        if self._clock() - count.since >= WINDOW:
            count.since, count.refused = self._clock(), 0

    def _count(self, client: str) -> _Count:
        count = self._counts.setdefault(client, _Count(self._clock()))
        self._counts.move_to_end(client)
        while len(self._counts) > CLIENTS:
            self._counts.popitem(last=False)
        return count
