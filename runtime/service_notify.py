"""Reports to systemd how far a service is, for units with `Type=notify`.

The protocol is sd_notify(3): assignments, one a line, in a datagram to the socket that NOTIFY_SOCKET names.
Without that variable nothing is sent.
"""

import asyncio
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Final

VARIABLE: Final = "NOTIFY_SOCKET"
PAUSE: Final = 0.25  # seconds between two looks at whether the service is ready


class ServiceNotifier:
    """What systemd knows of this process: starting, ready, reloading, stopping."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._address = environ.get(VARIABLE, "")
        self._ready = False

    async def report_ready(self, unready: Callable[[], str | None]) -> None:
        """Report READY once `unready` gives no reason any more; until then the reason is the status."""
        told = None
        while self._address and (reason := unready()) is not None:
            if reason != told:
                told = reason
                self._send(f"STATUS={reason}")
            await asyncio.sleep(PAUSE)
        self._ready = True
        self._send("READY=1", "STATUS=ready")

    @contextmanager
    def reloading(self) -> Iterator[None]:
        """Report that the configuration is read again, and when that has ended.

        A service that is not ready yet stays so: the end of a reload is told by READY.
        """
        if self._ready:
            # CLOCK_MONOTONIC in microseconds, which `Type=notify-reload` wants (systemd.service(5)).
            self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            yield
        finally:
            if self._ready:
                self._send("READY=1")

    def stopping(self) -> None:
        """Report that the service takes nothing new and ends."""
        self._ready = False
        self._send("STOPPING=1", "STATUS=draining")

    def _send(self, *assignments: str) -> None:
        if not self._address:
            return
        # An address that begins with @ is in the abstract namespace (unix(7)), where the first byte is NUL.
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        # Who started us may be gone; that is no reason to end, nor to wait for them.
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.sendto("\n".join(assignments).encode(), socket.MSG_DONTWAIT, address)
