"""How an attack behaves on its connections: what it sends when, and what it reads of the answers."""

import asyncio
import contextlib
import re
import socket
from collections.abc import Awaitable, Callable
from typing import Final

SILENCE: Final = 0
"""Stands for the status of a request that got no answer."""
_STATUS: Final = re.compile(rb"HTTP/1\.[01] (\d{3}) ")


class Wire:
    """One connection of the attacker; what the other side ends is no error."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def to(cls, port: int, source: str, receives: int) -> "Wire":
        """Connect from an address; `receives` is the size of the receive buffer in bytes, 0 the system's."""
        made = socket.socket()
        if receives:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receives)
        made.setblocking(False)  # noqa: FBT003 - its name says it
        try:
            made.bind((source, 0))
            await asyncio.get_running_loop().sock_connect(made, ("127.0.0.1", port))
            return cls(*await asyncio.open_connection(sock=made, limit=receives or 65536))
        except BaseException:
            made.close()
            raise

    async def send(self, data: bytes) -> None:
        with contextlib.suppress(OSError):
            self._writer.write(data)
            await self._writer.drain()

    async def read(self, size: int = 65536) -> bytes:
        """What comes next; empty at the end."""
        with contextlib.suppress(OSError):
            return await self._reader.read(size)
        return b""

    def leave(self) -> None:
        self._writer.transport.abort()


Manner = Callable[[Wire, bytes, list[int]], Awaitable[None]]
"""Plays one connection: gets the bytes of its request, and notes the statuses that it is answered with."""


async def whole(wire: Wire, data: bytes, seen: list[int]) -> None:
    """Send it, and read to the end: as an honest client does."""
    _, begun = await asyncio.gather(wire.send(data), wire.read())
    rest = begun
    while rest:
        rest = await wire.read()
    seen.append(_status(begun))


async def counted(wire: Wire, data: bytes, seen: list[int]) -> None:
    """Send many requests in one piece, and note each answer, until none has come for two seconds."""
    sending = asyncio.create_task(wire.send(data))
    held = b""
    with contextlib.suppress(TimeoutError):
        while piece := await asyncio.wait_for(wire.read(), 2):
            held += piece
            seen += [int(found) for found in _STATUS.findall(held)]
            held = held[-12:]  # a byte short of a status line's beginning, so that none counts twice
    sending.cancel()


async def waiting(wire: Wire, data: bytes, seen: list[int]) -> None:
    """Send it, which is not all that was announced, and wait for an answer."""
    await wire.send(data)
    begun = await wire.read()
    if begun:
        seen.append(_status(begun))


async def dripped(wire: Wire, data: bytes, seen: list[int]) -> None:
    """Send it a byte at a time, a hundred a second."""
    for at in range(len(data)):
        await wire.send(data[at : at + 1])
        await asyncio.sleep(0.01)
    await waiting(wire, b"", seen)


async def unread(wire: Wire, data: bytes, _: list[int]) -> None:
    """Send it, and read nothing of the answer."""
    await wire.send(data)
    await asyncio.Event().wait()


async def sipped(wire: Wire, data: bytes, seen: list[int]) -> None:
    """Send it, and read a byte of the answer ten times a second."""
    await wire.send(data)
    begun = b""
    while piece := await wire.read(1):
        begun += piece
        if len(begun) == 13:
            seen.append(_status(begun))
        await asyncio.sleep(0.1)


async def left(wire: Wire, data: bytes, _: list[int]) -> None:
    """Send it, and hang up."""
    await wire.send(data)


async def aborted(wire: Wire, data: bytes, seen: list[int]) -> None:
    """Send it, and hang up as soon as an answer begins."""
    await waiting(wire, data, seen)


def leaving(seconds: float) -> Manner:
    """Send it, read of the answer what comes for so long, and hang up."""

    async def manner(wire: Wire, data: bytes, seen: list[int]) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(whole(wire, data, seen), seconds)

    return manner


async def idle(wire: Wire, data: bytes, seen: list[int]) -> None:
    """Send it, read the answer if it is a request, and keep the connection."""
    if data:
        await waiting(wire, data, seen)
    await asyncio.Event().wait()


def _status(begun: bytes) -> int:
    found = _STATUS.match(begun)
    return int(found[1]) if found else SILENCE
