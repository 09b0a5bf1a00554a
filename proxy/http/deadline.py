"""When something must have happened; both kinds of connections, callers' and engines', have one."""

import asyncio
import math
from collections.abc import Callable
from typing import Final

NEVER: Final = math.inf


class Deadline:
    """Calls `missed` once its time has come. One timer serves for all: it looks again when it comes early.

    So to move the deadline further away, as each byte of a stream does, costs an addition and no timer.
    """

    __slots__ = ("_loop", "_missed", "_time", "_timer", "at")

    def __init__(self, loop: asyncio.AbstractEventLoop, missed: Callable[[], None]) -> None:
        self.at = NEVER  # on the loop's clock; set it directly only to move it further away
        self._loop = loop
        self._time = loop.time
        self._missed = missed
        self._timer: asyncio.TimerHandle | None = None

    def expire_in(self, seconds: float) -> None:
        """Set it anew, nearer or further."""
        self.at = at = self._time() + seconds
        if self._timer is None or self._timer.when() > at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_at(at, self._look)

    def cancel(self) -> None:
        """There is none any more, and no timer either."""
        self.at = NEVER
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        if self.at == NEVER:
            return
        if self._time() < self.at:
            self._timer = self._loop.call_at(self.at, self._look)
        else:
            self._missed()
