"""Records that a request was granted while it is still in flight.

A request's own line is written when it ends, so a proxy that is killed takes the lines of all its streams
along. A request that lives longer than a second has a line `request.granted` before, with the same id.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from hubgate.proxy.audit import record
from hubgate.proxy.audit.writer import AuditWriter
from hubgate.proxy.context import RequestContext

# Together with the writer's group of 0.05 s this is less than a second.
MIN_AGE: Final = 0.7  # seconds; most requests end before, and have one line
INTERVAL: Final = 0.2  # seconds
_BATCH: Final = 200  # records in one turn of the event loop, which they hold for 2 to 4 ms


class LongRequests:
    """The requests in flight that have no line yet, oldest first.

    One sweep looks after all of them: a timer for each would cost a request ten times as much.
    """

    def __init__(self, audit: AuditWriter, now: Callable[[], float]) -> None:
        self._audit = audit
        self._now = now  # seconds since the epoch
        self._waiting: dict[RequestContext, None] = {}

    def enter(self, context: RequestContext) -> None:
        """Watch a request that begins."""
        self._waiting[context] = None

    def leave(self, context: RequestContext) -> None:
        """Forget a request that ends."""
        self._waiting.pop(context, None)

    async def run(self) -> None:
        """Sweep until cancelled."""
        while True:
            more = self.sweep()
            await asyncio.sleep(0 if more else INTERVAL)

    def sweep(self) -> bool:
        """Record the granted requests that are old enough; whether there may be more of them."""
        due: list[RequestContext] = []
        for context in self._waiting:
            if context.elapsed < MIN_AGE or len(due) == _BATCH:
                break
            if context.access is not None:  # the others wait for the Hub, or for their own body
                due.append(context)
        for context in due:
            del self._waiting[context]
            self._audit.append("request.granted", record.granted(context, self._now()))
        return len(due) == _BATCH
