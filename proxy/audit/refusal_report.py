"""Tells the audit, once a minute, of the refusals that have no line of their own.

So the lines and the counts of these records together are the decisions, however many come of somebody who
has no token, or of a caller whom the limits turn away.
"""

import asyncio
from typing import Final

from hubgate.proxy.audit.writer import AuditWriter
from hubgate.proxy.limits.refusals import OTHERS, WINDOW, Refusals, read_caller

EVENT: Final = "auth.refused"
THROTTLED: Final = "limits.refused"


class RefusalReport:
    """One record for each client, and for each caller whom the limits turned away."""

    def __init__(self, refusals: Refusals, throttled: Refusals, audit: AuditWriter) -> None:
        self._refusals = refusals
        self._throttled = throttled
        self._audit = audit

    async def run(self) -> None:
        """Write the records of each minute."""
        while True:
            await asyncio.sleep(WINDOW)
            self.write()

    def write(self) -> None:
        """Write those that are due. On a disk that has little room left, all of a kind are in one."""
        for client, count in self._due(self._refusals).items():
            self._audit.record(EVENT, {"client": client, "decision": "denied", "count": count})
        for name, count in self._due(self._throttled).items():
            sub, user = read_caller(name)
            who = {"user": user, "sub": sub} if user else {"user": OTHERS}
            self._audit.record(THROTTLED, {**who, "count": count})

    def _due(self, refusals: Refusals) -> dict[str, int]:
        counts = refusals.report()
        return {OTHERS: sum(counts.values())} if self._audit.scarce and counts else counts
