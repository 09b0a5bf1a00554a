"""Tells the audit, once a minute, of the refusals that have no line of their own.

So the lines and the counts of these records together are the decisions, however many come of somebody who
has no token.
"""

import asyncio
from typing import Final

from hubgate.proxy.audit.writer import AuditWriter
from hubgate.proxy.limits.refusals import OTHERS, WINDOW, Refusals

EVENT: Final = "auth.refused"


class RefusalReport:
    """One record for each client."""

    def __init__(self, refusals: Refusals, audit: AuditWriter) -> None:
        self._refusals = refusals
        self._audit = audit

    async def run(self) -> None:
        """Write the records of each minute."""
        while True:
            await asyncio.sleep(WINDOW)
            self.write()

    def write(self) -> None:
        """Write those that are due. On a disk that has little room left, all clients are in one."""
        counts = self._refusals.report()
        if self._audit.scarce and counts:
            counts = {OTHERS: sum(counts.values())}
        for client, count in counts.items():
            self._audit.record(EVENT, {"client": client, "decision": "denied", "count": count})
