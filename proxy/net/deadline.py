"""When something must have happened; both kinds of connections, callers' and engines', have one."""

import asyncio
import math
from collections.abc import Callable
from typing import Final

NEVER: Final = math.inf


class Deadline:
    """Calls `on_timeout` once its time has come. One timer serves for all: it looks again if it was early.

    So to move the deadline further away, as each byte of a stream does, costs an addition and no timer.
    """

    __slots__ = ("_loop", "_on_timeout", "_time", "_timer", "limit", "when")

    def __init__(self, loop: asyncio.AbstractEventLoop, on_timeout: Callable[[], None]) -> None:
        # Both on the loop's clock; set `when` directly only to move it further away.
        self.when = NEVER
        self.limit = NEVER  # however far away `when` is moved; counts from the next `expire_in` on
        self._loop = loop
        self._time = loop.time
        self._on_timeout = on_timeout
        self._timer: asyncio.TimerHandle | None = None

    def expire_in(self, seconds: float) -> None:
        """Set it anew, nearer or further."""
        self.when = self._time() + seconds
        at = min(self.when, self.limit)
        if self._timer is None or self._timer.when() > at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_at(at, self._look)

    def cancel(self) -> None:
        """There is none any more, and no timer either."""
        self.when = self.limit = NEVER
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        at = min(self.when, self.limit)
        if at == NEVER:
            return
        if self._time() < at:
            self._timer = self._loop.call_at(at, self._look)
        else:
            self._on_timeout()
