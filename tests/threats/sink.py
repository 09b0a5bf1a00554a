"""Where a redirect would lead: a server that nobody should ever connect to."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from aiohttp import web

from tests.fakes.engine import LOCAL


class Sink:
    """Counts connections, keeps what they say, and answers each with a 404."""

    def __init__(self) -> None:
        self.connections = 0
        self.received = b""
        self.port = 0

    @classmethod
    @asynccontextmanager
    async def start(cls) -> AsyncIterator["Sink"]:
        """Listen until the context ends."""
        sink = cls()
        server = await asyncio.start_server(sink._serve, LOCAL, 0)
        sink.port = server.sockets[0].getsockname()[1]
        async with server:
            yield sink

    @property
    def url(self) -> str:
        return f"http://{LOCAL}:{self.port}"

    def redirect(self, status: int = 302) -> web.Response:
        """An answer that leads here."""
        return web.Response(status=status, headers={"Location": f"{self.url}/stolen"})

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with suppress(OSError, asyncio.IncompleteReadError):
            self.received += await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            await writer.drain()
        writer.close()
