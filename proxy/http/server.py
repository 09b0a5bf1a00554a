"""Listens on the public port."""

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from email.utils import formatdate
from typing import Any, Final, cast

from hubgate.proxy.errors import Code
from hubgate.proxy.http.caller_connection import LINGER, CallerConnection
from hubgate.proxy.http.request import Response, ServerRequest

READ: Final = 64 * 1024  # bytes that are read of a connection at once
KEEPALIVE: Final = 75.0  # seconds that a connection may be idle (nginx's default)
SHUTDOWN: Final = 3600.0  # seconds for what is unsent and the end of TLS; STALLED ends it before, if need be
BACKLOG: Final = 1024  # connections that wait to be accepted


class Server:
    """All connections of one listening socket, and the one handler of their requests."""

    def __init__(
        self,
        handle: Callable[[ServerRequest], Awaitable[None]],
        refuse: Callable[[Code, str | None], Response],
        *,
        header_timeout: float,
        least_rate: float,
    ) -> None:
        """`refuse` renders the answer to bytes that are no request, and to a stranger of that address.

        `header_timeout` in seconds, `least_rate` at which answers are to be taken in bytes a second.
        """
        self.handle = handle
        self.refuse = refuse
        self.header_timeout = header_timeout
        self.least_rate = least_rate
        self.keepalive_timeout = KEEPALIVE
        self.draining = False
        self.buffer = memoryview(bytearray(READ))
        self._connections: set[CallerConnection] = set()
        self._empty = asyncio.Event()
        self._empty.set()
        self._listener: asyncio.AbstractServer | None = None
        self._second = 0  # since the epoch
        self._date = ""

    async def listen(self, host: str, port: int, tls: ssl.SSLContext | None) -> int:
        """Accept connections from now on; gives the port. Raises `OSError`."""
        loop = asyncio.get_running_loop()
        listener: Any = (
            await loop.create_server(  # uvloop's `sockets` is no tuple, which a compiled cast minds
                lambda: cast("asyncio.BufferedProtocol", CallerConnection(self)),  # by its methods
                host,
                port,
                ssl=tls,
                ssl_handshake_timeout=self.header_timeout if tls else None,
                ssl_shutdown_timeout=SHUTDOWN if tls else None,
                backlog=BACKLOG,
            )
        )
        self._listener = listener
        bound: int = listener.sockets[0].getsockname()[1]
        return bound

    def stop(self) -> None:
        """Accept nothing more; connections that are there go on, each for one more answer at most."""
        self.draining = True
        if self._listener is not None:
            self._listener.close()

    async def close(self) -> None:
        """End every connection, and what is still under way on it."""
        ended = [connection.end() for connection in tuple(self._connections)]
        await asyncio.gather(*filter(None, ended), return_exceptions=True)
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER):
                await self._empty.wait()
        for connection in tuple(self._connections):
            connection.abort()  # who does not read their answer does not hold us
        await self._empty.wait()

    def interrupt(self, which: Callable[[ServerRequest], bool]) -> int:
        """Cancel the handlers of these requests under way; how many there were."""
        return sum([connection.interrupt(which) for connection in tuple(self._connections)])

    @property
    def date(self) -> str:
        """Of the `Date` header (RFC 9110, section 5.6.7), made once a second."""
        now = int(time.time())
        if self._second != now:
            self._second, self._date = now, formatdate(now, usegmt=True)
        return self._date

    def opened(self, connection: CallerConnection) -> None:
        self._connections.add(connection)
        self._empty.clear()

    def closed(self, connection: CallerConnection) -> None:
        self._connections.discard(connection)
        if not self._connections:
            self._empty.set()
