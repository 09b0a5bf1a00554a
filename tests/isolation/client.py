"""A cheap HTTP client: connections are kept and used again, several at once."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import msgspec

from tests.fakes.engine import LOCAL, PATIENCE


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer; `raw` is every byte of it."""

    status: int
    raw: bytes
    body: bytes

    @property
    def model(self) -> str:
        """The model that answered, of a stream too."""
        text = self.body.partition(b"\n")[0].removeprefix(b"data: ")
        return str(msgspec.json.decode(text)["model"])

    @property
    def code(self) -> str:
        return str(msgspec.json.decode(self.body)["error"]["code"])

    @property
    def listed(self) -> tuple[str, ...]:
        return tuple(card["id"] for card in msgspec.json.decode(self.body)["data"])


class Client:
    """Asks one port of this machine."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._all: list[asyncio.StreamWriter] = []

    async def ask(self, method: str, path: str, token: str, request_id: str, body: Any = None) -> Answer:
        """One request, with a JSON body if there is one."""
        data = b"" if body is None else msgspec.json.encode(body)
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: hubgate\r\nAuthorization: Bearer {token}\r\n"
            f"X-Request-Id: {request_id}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(data)}\r\n\r\n"
        )
        async with asyncio.timeout(PATIENCE):
            reader, writer = await self._connection()
            writer.write(head.encode() + data)
            answer = await _read(reader)
        self._idle.append((reader, writer))
        return answer

    async def close(self) -> None:
        """Close the connections."""
        for writer in self._all:
            writer.close()
        for writer in self._all:
            with suppress(OSError):
                await writer.wait_closed()

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof():  # the proxy closes what was idle for long
                return reader, writer
        reader, writer = await asyncio.open_connection(LOCAL, self._port)
        self._all.append(writer)
        return reader, writer


async def _read(reader: asyncio.StreamReader) -> Answer:
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.decode("latin-1").lower().split("\r\n")
    status = int(lines[0].split(" ")[1])
    if "transfer-encoding: chunked" in lines:
        raw, body = await _chunks(reader)
        return Answer(status, head + raw, body)
    size = next(int(line.partition(":")[2]) for line in lines if line.startswith("content-length:"))
    body = await reader.readexactly(size)
    return Answer(status, head + body, body)


async def _chunks(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    raw, body = b"", b""
    while True:
        line = await reader.readuntil(b"\r\n")
        piece = await reader.readexactly(int(line, 16) + 2)
        raw += line + piece
        body += piece[:-2]
        if piece == b"\r\n":
            return raw, body
