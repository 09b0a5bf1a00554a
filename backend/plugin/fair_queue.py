"""Lets a few in at a time, and those who wait in turn by caller."""

import asyncio
from collections import OrderedDict, deque


class FairQueue:
    """At most `width` are in at a time. Who has many waiting waits behind their own, not before others."""

    def __init__(self, width: int) -> None:
        self._free = width
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    def try_enter(self) -> bool:
        """Enter if there is a place."""
        if not self._free:
            return False
        self._free -= 1
        return True

    async def enter(self, caller: str) -> None:
        """Wait for a place; whoever got in must `leave`. One who is cancelled gives it up."""
        if self.try_enter():
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(caller, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it had come in the same moment
                self.leave()
            else:
                self._forget(caller, turn)
            raise

    def leave(self) -> None:
        """Give the place to the next one: of the caller who has waited for a turn for longest."""
        while self._waiting:
            caller, turns = self._waiting.popitem(last=False)
            turn = turns.popleft()
            if turns:
                self._waiting[caller] = turns  # behind all others
            if not turn.cancelled():  # else its task has not run yet, and will find itself forgotten
                turn.set_result(None)
                return
        self._free += 1

    def _forget(self, caller: str, turn: "asyncio.Future[None]") -> None:
        turns = self._waiting.get(caller)
        if turns is not None and turn in turns:
            turns.remove(turn)
            if not turns:
                del self._waiting[caller]
