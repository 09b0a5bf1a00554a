"""SIGHUP: read the configuration again (daemon(7))."""

import asyncio
import signal
from collections.abc import Callable


class Hangup:
    """Takes the signal from the moment that it is made: one that comes during the start counts after it."""

    def __init__(self) -> None:
        self._early = False
        signal.signal(signal.SIGHUP, self._note)

    def follow(self, reload: Callable[[], object]) -> None:
        """From now on call this, on the running loop, each time that the signal comes."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, reload)
        if self._early:
            loop.call_soon(reload)

    def _note(self, *_: object) -> None:
        self._early = True
