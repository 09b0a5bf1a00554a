"""The end of a proxy's life: what is under way goes on to its end, what is new goes elsewhere."""

import asyncio

from hubgate.proxy.errors import Denied

RETRY_AFTER = 5  # seconds; by then a load balancer knows of the restart


class Drain:
    """Counts the requests under way, and knows whether there may be new ones."""

    def __init__(self) -> None:
        self._begun = False
        self._under_way = 0
        self._quiet = asyncio.Event()

    @property
    def begun(self) -> bool:
        """Whether the proxy is on its way out."""
        return self._begun

    def begin(self) -> None:
        """Refuse every request from now on."""
        self._begun = True
        self._tell()

    def refusal(self) -> Denied | None:
        """What a new request is told; `None` while the proxy serves."""
        if not self._begun:
            return None
        return Denied("draining", "This proxy is going down; try again.", retry_after=RETRY_AFTER)

    def enter(self) -> None:
        """Count a request."""
        self._under_way += 1

    def leave(self) -> None:
        """Say that it ended."""
        self._under_way -= 1
        self._tell()

    async def wait(self, seconds: float) -> bool:
        """Wait until nothing is under way, but no longer than this; whether all of it ended."""
        try:
            async with asyncio.timeout(seconds):
                await self._quiet.wait()
        except TimeoutError:
            return False
        return True

    def _tell(self) -> None:
        if self._begun and not self._under_way:
            self._quiet.set()
