"""Listens on the public port."""

import asyncio
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from email.utils import formatdate
from functools import partial
from typing import Any, Final, Literal, cast

import structlog

from hubgate.proxy.errors import Code
from hubgate.proxy.http.acceptor import Acceptor, bind
from hubgate.proxy.http.caller_connection import LINGER, CallerConnection
from hubgate.proxy.http.client_address import group
from hubgate.proxy.http.connection_limit import ConnectionLimit, Held
from hubgate.proxy.http.request import Response, ServerRequest

READ: Final = 64 * 1024  # bytes that are read of a connection at once
KEEPALIVE: Final = 75.0  # seconds that a connection may be idle (nginx's default)
SHUTDOWN: Final = 3600.0  # seconds for what is unsent and the end of TLS; STALLED ends it before, if need be
BACKLOG: Final = 1024  # connections that wait to be accepted
LOG_PAUSE: Final = 60.0  # seconds between two lines of the log about connections that had to go

Dropped = Literal["evicted", "refused"]

log = structlog.get_logger("http")


class Server:
    """All connections of one listening socket, and the one handler of their requests."""

    def __init__(
        self,
        handle: Callable[[ServerRequest], Awaitable[None]],
        refuse: Callable[[Code, str | None], Response],
        *,
        header_timeout: float,
        least_rate: float,
        limit: ConnectionLimit,
        dropped: Callable[[Dropped], None],
    ) -> None:
        """`refuse` renders the answer to bytes that are no request, and to a stranger of that address.

        `header_timeout` in seconds, `least_rate` at which answers are to be taken in bytes a second.
        `dropped` counts a connection that was closed because there were too many.
        """
        self.handle = handle
        self.refuse = refuse
        self.header_timeout = header_timeout
        self.least_rate = least_rate
        self.keepalive_timeout = KEEPALIVE
        self.draining = False
        self.buffer = memoryview(bytearray(READ))
        self._limit = limit
        self._dropped = dropped
        self._drops: dict[Dropped, int] = {"evicted": 0, "refused": 0}  # that no line of the log tells of yet
        self._log_from = 0.0  # when there may be another one, on the loop's clock
        self._connections: set[CallerConnection] = set()
        self._empty = asyncio.Event()
        self._empty.set()
        self._listener: asyncio.AbstractServer | Acceptor | None = None
        self._second = 0  # since the epoch
        self._date = ""

    async def listen(self, host: str, port: int, tls: ssl.SSLContext | None) -> int:
        """Accept connections from now on; gives the port. Raises `OSError`."""
        loop = asyncio.get_running_loop()
        bound: int
        if tls is not None:
            listeners = bind(host, port, BACKLOG)
            self._listener = Acceptor(listeners, partial(self._accepted, tls))
            bound = listeners[0].getsockname()[1]
            return bound
        listener: Any = (
            await loop.create_server(  # uvloop's `sockets` is no tuple, which a compiled cast minds
                lambda: cast("asyncio.BufferedProtocol", CallerConnection(self)),  # by its methods
                host,
                port,
                backlog=BACKLOG,
            )
        )
        self._listener = listener
        bound = listener.sockets[0].getsockname()[1]
        return bound

    def _accepted(self, tls: ssl.SSLContext, sock: socket.socket, peer: str) -> None:
        """Begin a handshake, which counts as a connection from now on."""
        connection = CallerConnection(self)
        connection.peer = peer
        connection.handshake = task = asyncio.get_running_loop().create_task(
            self._secure(tls, sock, connection)
        )
        task.add_done_callback(partial(self._secured, sock, connection))
        self.opened(connection)

    async def _secure(self, tls: ssl.SSLContext, sock: socket.socket, connection: CallerConnection) -> None:
        await asyncio.get_running_loop().connect_accepted_socket(
            lambda: cast("asyncio.BufferedProtocol", connection),
            sock,
            ssl=tls,
            ssl_handshake_timeout=self.header_timeout,
            ssl_shutdown_timeout=SHUTDOWN,
        )

    def _secured(self, sock: socket.socket, connection: CallerConnection, task: "asyncio.Task[None]") -> None:
        """Where it failed, the socket may be nobody's yet, and the connection never hears that it is lost."""
        if task.cancelled() or task.exception() is not None:
            sock.close()
        if connection.handshake is not None:
            self.closed(connection)

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
        goes = self._limit.opened(connection)
        if goes is not None:
            self._drop(goes, "refused" if goes is connection else "evicted")

    def admitted(self, connection: CallerConnection) -> None:
        self._limit.admitted(connection)

    def closed(self, connection: CallerConnection) -> None:
        self._limit.closed(connection, admitted=connection.admitted)
        self._connections.discard(connection)
        if not self._connections:
            self._empty.set()

    def _drop(self, connection: Held, how: Dropped) -> None:
        connection.abort()
        self._dropped(how)
        self._drops[how] = self._drops[how] + 1
        now = asyncio.get_running_loop().time()
        if now < self._log_from:
            return
        self._log_from = now + LOG_PAUSE
        limit = self._limit
        log.warning(
            "too many connections: the oldest that never authenticated go, then new ones are refused",
            connections=len(limit),
            most=limit.most,
            most_of_one_client=limit.share,
            client=group(connection.peer),
            **self._drops,
        )
        self._drops = {"evicted": 0, "refused": 0}
