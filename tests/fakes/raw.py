"""An HTTP client that sends exactly the bytes it is given and keeps exactly those that come back."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import msgspec

from tests.fakes.engine import LOCAL, PATIENCE

MAX_LINE = 1024 * 1024  # bytes that `until` reads at most


@dataclass(frozen=True, slots=True)
class RawAnswer:
    """One answer; `complete` is false where the connection ended before the answer did."""

    raw: bytes
    body: bytes
    complete: bool

    @property
    def _head(self) -> list[str]:
        return self.raw.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")

    @property
    def status(self) -> int:
        return int(self._head[0].split(" ")[1])

    def header(self, name: str) -> str | None:
        """The value of a header; `None` if there is none."""
        pairs = (line.partition(":") for line in self._head[1:])
        return next((value.strip() for found, _, value in pairs if found.lower() == name.lower()), None)

    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    @property
    def code(self) -> str:
        """The code of an error of ours."""
        return str(self.json()["error"]["code"])


class RawClient:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    @asynccontextmanager
    async def connect(cls, port: int) -> AsyncIterator["RawClient"]:
        """Connect to a port of this machine."""
        reader, writer = await asyncio.open_connection(LOCAL, port, limit=MAX_LINE)
        client = cls(reader, writer)
        try:
            yield client
        finally:
            client.leave()

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    def leave(self) -> None:
        """Hang up at once."""
        self._writer.transport.abort()

    async def read(self, size: int = 65536) -> bytes:
        """What comes next; empty at the end."""
        async with asyncio.timeout(PATIENCE):
            try:
                return await self._reader.read(size)
            except ConnectionError:
                return b""

    async def until(self, mark: bytes) -> bytes:
        """Read up to and with this mark, or to the end."""
        async with asyncio.timeout(PATIENCE):
            try:
                return await self._reader.readuntil(mark)
            except asyncio.IncompleteReadError as error:
                return error.partial
            except ConnectionError:
                return b""

    async def rest(self) -> bytes:
        """Everything until the other side closes."""
        seen = b""
        while more := await self.read():
            seen += more
        return seen

    async def answer(self, method: str = "POST") -> RawAnswer:
        """Read one answer, by its length or its chunks, or as much of it as comes."""
        head = await self.until(b"\r\n\r\n")
        found = RawAnswer(head, b"", complete=False)
        if not head.endswith(b"\r\n\r\n") or method == "HEAD":
            return RawAnswer(head, b"", complete=head.endswith(b"\r\n\r\n"))
        if found.header("Transfer-Encoding") == "chunked":
            return await self._chunks(head)
        size = int(found.header("Content-Length") or 0)
        body = bytearray()  # which grows in place: answers may be of megabytes
        while len(body) < size and (more := await self.read(size - len(body))):
            body += more
        return RawAnswer(head + body, bytes(body), complete=len(body) == size)

    async def _chunks(self, head: bytes) -> RawAnswer:
        raw, body = bytearray(head), bytearray()
        while line := await self.until(b"\r\n"):
            raw += line
            size = int(line.strip() or b"0", 16)
            piece = bytearray()
            while len(piece) < size + 2 and (more := await self.read(size + 2 - len(piece))):
                piece += more
            raw += piece
            body += piece[:size]
            if size == 0:
                return RawAnswer(bytes(raw), bytes(body), complete=piece == b"\r\n")
        return RawAnswer(bytes(raw), bytes(body), complete=False)


def request(
    method: str, target: str, headers: Sequence[tuple[str, str]] = (), body: bytes | None = None
) -> bytes:
    """The bytes of a request; a body gets its length and type unless the headers say otherwise."""
    names = {name.lower() for name, _ in headers}
    lines = [f"{method} {target} HTTP/1.1"]
    lines += ["Host: hubgate"] if "host" not in names else []
    lines += [f"{name}: {value}" for name, value in headers]
    if body is not None and not names & {"content-length", "transfer-encoding"}:
        lines.append(f"Content-Length: {len(body)}")
    if body is not None and "content-type" not in names:
        lines.append("Content-Type: application/json")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")


async def ask(port: int, data: bytes) -> RawAnswer:
    """Send these bytes on a connection of their own; gives the answer."""
    async with RawClient.connect(port) as client:
        await client.send(data)
        return await client.answer(data.partition(b" ")[0].decode("latin-1"))
