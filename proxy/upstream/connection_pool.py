"""The idle connections to engines, kept alive for less long than the engine keeps them."""

import asyncio
from collections import defaultdict
from typing import Final, cast

from hubgate.proxy.upstream.engine_connection import Address, EngineConnection

KEEPALIVE: Final = 4.0  # seconds; uvicorn closes idle connections after 5 (its timeout_keep_alive)


class ConnectionPool:
    """The idle connections to all engines; one that is in use belongs to who uses it."""

    def __init__(self, connect_timeout: float, keepalive: float = KEEPALIVE) -> None:
        """Both in seconds; a connection that is idle for longer than `keepalive` is not used again."""
        self.keepalive = keepalive
        self._connect_timeout = connect_timeout
        self._idle: defaultdict[Address, list[EngineConnection]] = defaultdict(list)

    def take(self, address: Address) -> EngineConnection | None:
        """The idle connection that was used last, if there is one; else `open` one."""
        idle = self._idle[address]
        while idle:
            connection = idle.pop()
            if connection.fresh:
                return connection
            connection.close()
        return None

    async def open(self, address: Address) -> EngineConnection:
        """A new connection. Raises `OSError`, `TimeoutError`."""
        loop = asyncio.get_running_loop()
        made = EngineConnection(address, self.keepalive, self.give_back, self.lost)
        protocol = cast("asyncio.Protocol", made)  # by its methods; what is compiled has no such base
        async with asyncio.timeout(self._connect_timeout):
            await loop.create_connection(lambda: protocol, *address)
        return made

    def give_back(self, connection: EngineConnection) -> None:
        """It can carry another request."""
        self._idle[connection.address].append(connection)

    def lost(self, connection: EngineConnection) -> None:
        """It is closed."""
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
