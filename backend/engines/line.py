"""Callers who wait for an engine, and whose turn it is to see whether one can be had.

In rounds: each tries in its turn, whoever was given an engine longest ago first, and of each caller whoever
came first. The operator comes before all others, and a load that its caller has left last. After a round in
which somebody got one there is another at once; else after `POLL`, since an engine becomes idle without
telling us.
"""

import asyncio
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count

from hubgate.backend.fairness.line import OPERATOR
from hubgate.wire.bounded_map import BoundedMap

POLL = 0.5  # seconds
MEMORY = 10_000  # callers of whom is known when they were given an engine


def _always() -> bool:
    return True


@dataclass(slots=True, eq=False)
class Waiting:
    """One load in the line. `is_present`: its caller has not left. `wants`: slots of which it takes any."""

    caller: str
    is_present: Callable[[], bool]
    number: int
    wants: Collection[int] = ()
    may_try: asyncio.Event = field(default_factory=asyncio.Event)


class EngineLine:
    """One at a time is told that it may try; `turn` is when."""

    def __init__(self) -> None:
        self._waiting: list[Waiting] = []
        self._round: list[Waiting] = []  # those who are still to try in this one
        self._trying: Waiting | None = None
        self._moved = False  # somebody got an engine in this round
        self._timer: asyncio.TimerHandle | None = None
        self._given: BoundedMap[str, int] = BoundedMap(MEMORY)
        self._numbers = count(1)
        self.promised: set[int] = set()  # slots that those want who have tried in vain in this round
        self._places: dict[Waiting, int] | None = None

    @contextmanager
    def joined(self, caller: str, is_present: Callable[[], bool] = _always) -> Iterator[Waiting]:
        """In the line until the end of the block, which is left with an engine or for good."""
        one = Waiting(caller, is_present, next(self._numbers))
        self._waiting.append(one)
        self._places = None
        try:
            yield one
        finally:
            self._waiting.remove(one)
            self._places = None
            self._moved = True
            if self._trying is one:
                self._next()
            if not self._waiting and self._timer is not None:
                self._timer.cancel()
                self._timer = None

    async def turn(self, one: Waiting) -> None:
        """Wait until it may try: at once where nobody else waits, and again after it has tried in vain."""
        if self._trying is one:
            if one.is_present():  # the slot may become free before those behind it have tried
                self.promised.update(one.wants)
            self._next()
        if self._trying is None and self._timer is None:
            self._begin()
        await one.may_try.wait()
        one.may_try.clear()

    def given(self, caller: str) -> None:
        """An engine was started or woken up for this caller."""
        self._given.put(caller, next(self._numbers))
        self._places = None

    def callers(self) -> set[str]:
        """Who waits, and has not left."""
        return {one.caller for one in self._waiting if one.is_present()}

    def position(self, one: Waiting) -> int | None:
        """How many are next before it, and itself; `None` if it does not wait."""
        if self._places is None:
            self._places = {one: place for place, one in enumerate(self._order(), 1)}
        return self._places.get(one)

    def _order(self) -> list[Waiting]:
        ahead: dict[str, int] = {}
        ranks: dict[Waiting, tuple[bool, bool, int, int, int]] = {}
        for one in self._waiting:
            before = ahead[one.caller] = ahead.get(one.caller, -1) + 1
            last = self._given.get(one.caller, 0)
            ranks[one] = one.caller != OPERATOR, not one.is_present(), before, last, one.number
        return sorted(ranks, key=ranks.__getitem__)

    def _begin(self) -> None:
        self._timer, self._moved, self._places = None, False, None
        self.promised.clear()
        self._round = self._order()
        self._next()

    def _next(self) -> None:
        self._trying = None
        while self._round:
            one = self._round.pop(0)
            if one in self._waiting:
                self._trying = one
                one.may_try.set()
                return
        if self._waiting and self._timer is None:
            # Not in this call: whoever tried in vain is about to wait again.
            delay = 0 if self._moved else POLL
            self._timer = asyncio.get_running_loop().call_later(delay, self._begin)
