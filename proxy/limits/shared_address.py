"""Notices that what counts as one client is many: a load balancer in front that nobody told us to trust.

Then every budget of a client is everybody's, and the audit names the balancer as the client.
"""

from collections.abc import Callable
from typing import Final

import structlog

SAMPLE: Final = 1000  # requests that are looked at together
MOST: Final = 800  # of them from one address are too many for one client, if the callers differ
PAUSE: Final = 3600.0  # seconds between two warnings

log = structlog.get_logger("limits")


class SharedAddress:
    """Looks at the address that a sample begins with: one that has most requests nearly always does."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._client = ""
        self._sub = ""
        self._seen = 0
        self._same = 0
        self._several = False  # whether callers differ at this address
        self._quiet_until = 0.0

    def seen(self, client: str, sub: str) -> None:
        """Count a request of a caller who was let in."""
        if self._seen == 0:
            self._client, self._sub = client, sub
            self._same, self._several = 0, False
        self._seen += 1
        if client == self._client:
            self._same += 1
            if sub != self._sub:
                self._several = True
        if self._seen == SAMPLE:
            self._seen = 0
            if self._several and self._same > MOST:
                self._warn()

    def _warn(self) -> None:
        now = self._clock()
        if now < self._quiet_until:
            return
        self._quiet_until = now + PAUSE
        log.warning(
            "one address is most of the traffic",
            client=self._client,
            hint="a load balancer? name it in listen.trusted_proxies; limits by address hit everybody",
        )
