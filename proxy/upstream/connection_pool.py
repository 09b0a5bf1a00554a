"""The idle connections to engines, kept alive for less long than the engine keeps them."""

import asyncio
import ssl
from collections import defaultdict
from collections.abc import Mapping
from time import monotonic
from typing import Final, cast

import structlog

from hubgate.proxy.upstream.engine_connection import Address, EngineConnection
from hubgate.runtime import tls
from hubgate.runtime.tls import Pauses, TlsFiles, reason

KEEPALIVE: Final = 4.0  # seconds; uvicorn closes idle connections after 5 (its timeout_keep_alive)
TLS_KEEPALIVE: Final = tls.KEEPALIVE  # of engines with TLS, which a backend starts with a longer one

NO_TLS: Final[Mapping[str, TlsFiles]] = {}

log = structlog.get_logger("upstream")


class ConnectionPool:
    """The idle connections to all engines; one that is in use belongs to who uses it."""

    def __init__(
        self,
        connect_timeout: float,
        keepalive: float = KEEPALIVE,
        tls: Mapping[str, TlsFiles] = NO_TLS,
    ) -> None:
        """Times in seconds; a connection that is idle for longer than `keepalive` is not used again.

        `tls` has what is shown to the engines of which backends. One that is not in it is not connected to if
        its address says TLS.
        """
        self.keepalive = keepalive
        self._connect_timeout = connect_timeout
        self._tls = tls
        self._tell = Pauses(_tell, monotonic)
        self._idle: defaultdict[Address, list[EngineConnection]] = defaultdict(list)

    def take(self, address: Address) -> EngineConnection | None:
        """The idle connection that was used last, if there is one; else `open` one."""
        idle = self._idle[address]
        context = self._context(address) if idle else None
        while idle:
            connection = idle.pop()
            if connection.fresh and connection.context is context:  # and nothing was renewed meanwhile
                return connection
            connection.close()
        return None

    async def open(self, address: Address) -> EngineConnection:
        """A new connection. Raises `OSError`, of which `ssl.SSLError` is one, and `TimeoutError`."""
        loop = asyncio.get_running_loop()
        host, port, name = address
        context = self._context(address)
        keepalive = self.keepalive if context is None else TLS_KEEPALIVE
        made = EngineConnection(address, keepalive, self.give_back, self.lost, context)
        protocol = cast("asyncio.Protocol", made)  # by its methods; what is compiled has no such base
        try:
            async with asyncio.timeout(self._connect_timeout):
                await loop.create_connection(
                    lambda: protocol, host, port, ssl=context, server_hostname=name or None
                )
        except ssl.SSLError as error:
            self._tell(f"{name}, port {port}: {reason(error)}")
            raise
        return made

    def _context(self, address: Address) -> ssl.SSLContext | None:
        """For a new connection there; `None` without TLS."""
        return self._tls[address[2]].context("engine") if address[2] else None

    def give_back(self, connection: EngineConnection) -> None:
        """It can carry another request."""
        self._idle[connection.address].append(connection)

    def lost(self, connection: EngineConnection) -> None:
        """It is closed."""
        if connection.context is not None and connection.unheard:
            error = connection.error
            why = reason(error) if isinstance(error, ssl.SSLError) else tls.ENDED
            self._tell(f"{connection.address[2]}, port {connection.address[1]}: {why}")
        idle = self._idle[connection.address]
        if connection in idle:
            idle.remove(connection)
        if not idle:
            del self._idle[connection.address]

    def close(self) -> None:
        """Close those that are idle."""
        for idle in tuple(self._idle.values()):
            for connection in tuple(idle):
                connection.close()


def _tell(what: str) -> None:
    log.warning("no TLS with an engine", why=what)
