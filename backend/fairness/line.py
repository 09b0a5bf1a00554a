"""A line before a few places, in which callers get equal shares of the places, whoever has how many wishes.

Who holds the fewest places is next; among equals, who was let in longest ago; then, who came first. So
before a caller who holds none, each other one is let in once at most. Nobody is held back while a place is
free: one alone may hold all of them. Who comes then gets one back if somebody holds at least two more: that
one's youngest is *called back*. What nobody waits for any more is called back first, and let in last.

A place is kept for `least` seconds before it is called back: else somebody who comes and goes could have
others' work begun anew all the time.

The operator has a place of their own beside the others, and is always next.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count

from hubgate.wire.bounded_map import BoundedMap

OPERATOR = "preload"  # in the place of a caller's pseudonym
MEMORY = 10_000  # callers of whom is known when they were let in

Callers = Callable[[], Collection[str]]  # who waits for it now, by pseudonym; nobody, once all have left

_NOBODY = ""


def _ignore() -> None:
    """What is not to be done."""


@dataclass(slots=True, eq=False)
class Turn:
    """One wish for a place, and the place itself once it `came`. Whoever has it may set `on_call`."""

    callers: Callers
    number: int
    came: asyncio.Event = field(default_factory=asyncio.Event)
    payer: str = _NOBODY  # whose share it takes up
    since: float = 0.0  # when it came
    called_back: bool = False
    on_call: Callable[[], None] = _ignore

    def call_back(self) -> None:
        """The place is wanted: give it up soon, and come again."""
        self.called_back = True
        self.on_call()

    def forget_call(self) -> None:
        """It gives the place up anyway."""
        self.on_call = _ignore


class Line:
    """Before `width` places for callers, and one for the operator."""

    def __init__(self, width: int, least: float = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self._width = width
        self._least = least
        self._clock = clock
        self._waiting: list[Turn] = []
        self._inside: list[Turn] = []
        self._let_in: BoundedMap[str, int] = BoundedMap(MEMORY)
        self._numbers = count(1)
        self._places: dict[Turn, int] | None = None

    @asynccontextmanager
    async def place(self, turn: Turn) -> AsyncIterator[None]:
        """Wait for a place, and have it until the end of the block."""
        self.enter(turn)
        try:
            await turn.came.wait()
            yield
        finally:
            self.leave(turn)

    def enter(self, turn: Turn) -> None:
        """Join the line; `came` tells of the place."""
        self._waiting.append(turn)
        self.settle()

    def leave(self, turn: Turn) -> None:
        """Give up the place, or the wait for one."""
        (self._inside if turn in self._inside else self._waiting).remove(turn)
        self.settle()

    def turn(self, callers: Callers) -> Turn:
        """A wish to wait with."""
        return Turn(callers, next(self._numbers))

    def position(self, turn: Turn) -> int | None:
        """How many are let in until it is, this one included; `None` if it does not wait."""
        if turn.came.is_set():
            return None
        if self._places is None:
            self._places = self._order()
        return self._places.get(turn)

    def settle(self) -> None:
        """Let in who may, and call back what is due. Also after somebody left whom `callers` told of."""
        self._places = None
        held = self._held()
        while waiting := [turn for turn in self._waiting if self._has_room(turn)]:
            turn = min(waiting, key=lambda turn: self._rank(turn, held))
            turn.payer = self._payer(turn, held)
            held[turn.payer] += 1
            self._let_in.put(turn.payer, next(self._numbers))
            self._waiting.remove(turn)
            self._inside.append(turn)
            turn.since = self._clock()
            if self._least:
                asyncio.get_running_loop().call_later(self._least, self.settle)
            turn.came.set()
        self._call_back()

    def _call_back(self) -> None:
        """For each who waits for a share that others have on top of theirs, one of those others' places."""
        held = self._held()
        wanting = [turn for turn in self._waiting if turn.callers()]
        coming = sum(turn.called_back for turn in self._inside)  # places that are on their way back
        while wanting:
            turn = min(wanting, key=lambda turn: self._rank(turn, held))
            wanting.remove(turn)
            payer = self._payer(turn, held)
            if coming:
                coming -= 1
            elif (other := self._above(held, held[payer] + 1)) is not None:
                held[other.payer] -= 1
                other.call_back()
            else:
                return
            held[payer] += 1

    def _above(self, held: Counter[str], most: int) -> Turn | None:
        """The youngest place of nobody's, or of whoever holds the most, if that is more than `most`."""
        kept = self._clock() - self._least
        mine = [turn for turn in self._inside if not turn.called_back and turn.payer != OPERATOR]
        mine = [turn for turn in mine if turn.since <= kept]
        nobodys = [turn for turn in mine if turn.payer == _NOBODY]
        if nobodys:
            return nobodys[-1]
        richest = max(mine, key=lambda turn: (held[turn.payer], turn.number), default=None)
        return richest if richest is not None and held[richest.payer] > most else None

    def _has_room(self, turn: Turn) -> bool:
        """Whether it could be let in now: callers leave the operator's place free."""
        if OPERATOR in turn.callers():
            return len(self._inside) <= self._width
        own = any(other.payer == OPERATOR for other in self._inside)
        return len(self._inside) - own < self._width

    def _held(self) -> Counter[str]:
        """Places that count for each caller; those that are called back count for nobody."""
        held: Counter[str] = Counter()
        for turn in self._inside:
            if turn.payer not in turn.callers():  # who was let in with it has left
                turn.payer = self._payer(turn, held)
            if not turn.called_back:
                held[turn.payer] += 1
        return held

    def _payer(self, turn: Turn, held: Counter[str]) -> str:
        """Of those who wait for it, the operator, or whoever would be next by themselves."""
        callers = turn.callers()
        if OPERATOR in callers:
            return OPERATOR
        return min(callers, key=lambda one: (held[one], self._let_in.get(one, 0), one), default=_NOBODY)

    def _rank(self, turn: Turn, held: Counter[str], ahead: int = 0) -> tuple[bool, bool, int, int, int]:
        """Who comes first is next. `ahead` are turns of the same caller before it."""
        payer = self._payer(turn, held)
        nobodys, others = payer == _NOBODY, payer != OPERATOR
        return nobodys, others, held[payer] + ahead, self._let_in.get(payer, 0), turn.number

    def _order(self) -> dict[Turn, int]:
        """The positions of all who wait, as it looks now."""
        held, ahead, ranks = self._held(), Counter[str](), {}
        for turn in self._waiting:
            payer = self._payer(turn, held)
            ranks[turn] = self._rank(turn, held, ahead[payer])
            ahead[payer] += 1
        return {turn: place for place, turn in enumerate(sorted(ranks, key=ranks.__getitem__), 1)}
