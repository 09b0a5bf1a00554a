"""How many questions to the Hub are under way at once, and whose is next: each asker has a share.

Next is who has the fewest under way, and among those who waited longest. So nobody has more than another who
waits, but for questions that began while nobody waited; and who has none under way is passed by each other
asker once at most. A part of the turns is kept for such askers, so that a caller who is new finds one at
once whatever the others ask. Walks over commits cannot use it: they are long, and no way in.
"""

import asyncio
from collections import OrderedDict, defaultdict, deque
from typing import Final

from hubgate.proxy.frozen_struct import FrozenStruct

AT_ONCE: Final = 48  # questions, whoever asks
RESERVE: Final = 16  # more of them, for who has none under way


class Turn(FrozenStruct):
    """Leave for one question; it ends with exactly one `FairTurns.end`."""

    who: str
    reserved: bool


class _Waiter:
    def __init__(self, *, walk: bool) -> None:
        self.walk = walk
        self.turn: asyncio.Future[Turn] = asyncio.get_running_loop().create_future()


class FairTurns:
    """Counts questions under way by asker. It neither asks nor knows for how long anybody waits."""

    def __init__(self, at_once: int = AT_ONCE, reserve: int = RESERVE) -> None:
        self._free = at_once
        self._reserve = reserve
        self._under_way: defaultdict[str, int] = defaultdict(int)
        self._waiting: dict[str, deque[_Waiter]] = {}
        # Who waits, by how many they have under way; in the order in which they came to have so many.
        self._ranks: defaultdict[int, OrderedDict[str, None]] = defaultdict(OrderedDict)

    def __len__(self) -> int:
        """How many questions wait."""
        return sum(len(waiters) for waiters in self._waiting.values())

    async def begin(self, who: str, *, walk: bool = False) -> Turn:
        """Wait for a turn. Who gives up waiting, by cancellation, has none."""
        if self._free:
            return self._give(who, reserved=False)
        if self._reserve and not walk and not self._under_way.get(who, 0):
            return self._give(who, reserved=True)
        waiter = _Waiter(walk=walk)
        if who in self._waiting:
            self._waiting[who].append(waiter)
        else:
            self._waiting[who] = deque([waiter])
            self._enter(who)
        try:
            return await waiter.turn
        except asyncio.CancelledError:
            if not waiter.turn.cancelled():  # called already, and heard of it too late
                self.end(waiter.turn.result())
            else:
                self._leave(who, waiter)
                self._call_next()  # a walk may have gone that stood before another question of theirs
            raise

    def end(self, turn: Turn) -> None:
        """The question was answered, or given up; whoever is next begins."""
        if turn.reserved:
            self._reserve += 1
        else:
            self._free += 1
        self._rank(turn.who, -1)
        self._call_next()

    def _call_next(self) -> None:
        while self._free and (following := self._first()) is not None:
            self._call(following, reserved=False)
        while self._reserve and (following := self._first_new()) is not None:
            self._call(following, reserved=True)

    def _give(self, who: str, *, reserved: bool) -> Turn:
        if reserved:
            self._reserve -= 1
        else:
            self._free -= 1
        self._rank(who, 1)
        return Turn(who, reserved)

    def _call(self, who: str, *, reserved: bool) -> None:
        waiter = self._waiting[who][0]
        self._leave(who, waiter)
        waiter.turn.set_result(self._give(who, reserved=reserved))

    def _rank(self, who: str, change: int) -> None:
        """Have one more under way, or one less."""
        waits = who in self._waiting
        if waits:
            self._exit(who)
        self._under_way[who] += change
        if not self._under_way[who]:
            del self._under_way[who]
        if waits:
            self._enter(who)

    def _enter(self, who: str) -> None:
        self._ranks[self._under_way.get(who, 0)][who] = None

    def _exit(self, who: str) -> None:
        rank = self._under_way.get(who, 0)
        del self._ranks[rank][who]
        if not self._ranks[rank]:
            del self._ranks[rank]

    def _leave(self, who: str, waiter: _Waiter) -> None:
        """Wait no more."""
        waiters = self._waiting[who]
        waiters.remove(waiter)
        if not waiters:
            self._exit(who)
            del self._waiting[who]

    def _first(self) -> str | None:
        """Who has the fewest under way of those who wait."""
        return next(iter(self._ranks[min(self._ranks)])) if self._ranks else None

    def _first_new(self) -> str | None:
        """Who waits with none under way, and not for a walk."""
        for who in self._ranks.get(0, ()):
            if not self._waiting[who][0].walk:
                return who
        return None
