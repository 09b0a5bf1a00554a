"""Has bodies worked on one after the other, callers in turn, and others served in between.

To look for faults in a body takes some milliseconds at a time of the one thread. Sixty bodies may be complete
at once, of one caller too; without turns all of them are worked on before anybody else is answered.
"""

import asyncio
import time
from typing import Final

LONG: Final = 0.0005  # seconds of work, after which others are served before the next body has its turn

_clock: Final = time.perf_counter


class _Caller:
    """One caller's bodies, of which one waits for its turn among those of others."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.bodies = 0


class RoundRobin:
    """One body at a time; of each caller one waits in line with those of others, first come, first served."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._callers: dict[str, _Caller] = {}  # who has a body here, by `Identity.sub`
        self._began = 0.0
        self._was_long = False  # whether others have not been served since the last body

    def __len__(self) -> int:
        """How many callers have a body here."""
        return len(self._callers)

    async def begin(self, sub: str) -> None:
        """Wait for the turn of one of this caller's bodies; then `end` it, whatever comes of it.

        Where the last one took long, others are served before.
        """
        caller = self._callers.get(sub)
        if caller is None:
            caller = self._callers[sub] = _Caller()
        caller.bodies += 1
        try:
            await caller.lock.acquire()
            try:
                await self._lock.acquire()
                try:
                    if self._was_long:
                        await asyncio.sleep(0)
                except BaseException:
                    self._lock.release()
                    raise
            except BaseException:
                caller.lock.release()
                raise
        except BaseException:
            self._leave(sub, caller)
            raise
        self._was_long = False
        self._began = _clock()

    def end(self, sub: str) -> None:
        """Let the next one begin."""
        self._was_long = _clock() - self._began > LONG
        caller = self._callers[sub]
        self._lock.release()
        caller.lock.release()
        self._leave(sub, caller)

    def _leave(self, sub: str, caller: _Caller) -> None:
        caller.bodies -= 1
        if not caller.bodies:
            del self._callers[sub]
