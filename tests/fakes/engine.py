"""An engine that says what it is told to, below any HTTP library: the oracle of what came upstream.

    async with RawEngine.start() as engine:
        engine.then(misdirected(), completion("hi"))     # for the next requests, in order
        engine.always(dies())                            # for all others
        ...
        assert engine.requests[-1].json()["model"] == "org/name@sha"

An answer is a coroutine function of the request and its connection; `tests/fakes/answers.py` has the usual.
"""

import asyncio
import ssl
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Self, cast

import msgspec

LOCAL = "127.0.0.1"
PATIENCE = 20.0  # seconds that a test waits for something to happen before it fails
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

Answer = Callable[["Received", "Connection"], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Received:
    """One request, exactly as its bytes came."""

    raw: bytes

    @property
    def _head(self) -> list[str]:
        return self.raw.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")

    @property
    def line(self) -> str:
        """Method, target and version."""
        return self._head[0]

    @property
    def target(self) -> str:
        return self.line.split(" ")[1]

    @property
    def headers(self) -> list[tuple[str, str]]:
        """Names in lower case, in the order they came."""
        pairs = (line.partition(":") for line in self._head[1:])
        return [(name.lower(), value.strip()) for name, _, value in pairs]

    def header(self, name: str) -> str | None:
        """The value of a header that stands once; `None` if there is none."""
        values = [value for found, value in self.headers if found == name.lower()]
        assert len(values) <= 1, f"{name} stands {len(values)} times"
        return values[0] if values else None

    @property
    def body(self) -> bytes:
        """The body, without the framing of its chunks."""
        sent = self.raw.partition(b"\r\n\r\n")[2]
        if self.header("transfer-encoding") != "chunked":
            return sent
        pieces, start = [], 0
        while start < len(sent):
            end = sent.index(b"\r\n", start)
            size = int(sent[start:end], 16)
            pieces.append(sent[end + 2 : end + 2 + size])
            start = end + 2 + size + 2
        return b"".join(pieces)

    def json(self) -> Any:
        return msgspec.json.decode(self.body)


class Connection(asyncio.Protocol):
    """One connection of the proxy's; `left` is set once the proxy closed it."""

    def __init__(self, engine: "RawEngine") -> None:
        self._engine = engine
        self._buffer = bytearray()
        self._more = asyncio.Event()
        self.left = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass of it
        self._engine.connections.add(self)
        self._engine.handshakes += 1
        self._task = asyncio.create_task(self._serve())

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._engine.wire += data
        self._more.set()
        self._engine.moved()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.left.set()
        self._engine.connections.discard(self)
        self._engine.moved()
        self._task.cancel()

    def send(self, data: bytes) -> None:
        """Write; bytes after the proxy left go nowhere."""
        self._transport.write(data)

    @property
    def unsent(self) -> int:
        """Bytes that the proxy has not taken yet."""
        return self._transport.get_write_buffer_size()

    def close(self) -> None:
        """End the connection after what was written, with a FIN, as a process does that dies."""
        self._transport.close()

    def reset(self) -> None:
        """End the connection at once, with a RST if anything is unread or unsent."""
        self._transport.abort()

    def hold(self) -> None:
        """Read nothing more of what the proxy sends."""
        self._transport.pause_reading()

    def go_on(self) -> None:
        """Read again."""
        self._transport.resume_reading()

    async def _serve(self) -> None:
        while True:
            received = Received(await self._next())
            self._engine.requests.append(received)
            self._engine.moved()
            await self._engine.answer()(received, self)
            if self._engine.eager:
                await self.left.wait()  # what comes now is a body that nobody asked for

    async def _next(self) -> bytes:
        while (end := self._buffer.find(b"\r\n\r\n") + 4) < 4:
            await self._wait()
        head = Received(bytes(self._buffer[:end]))
        size = end + int(head.header("content-length") or 0)
        if not self._engine.eager:
            if head.header("expect") == "100-continue":
                self.send(CONTINUE)
            if head.header("transfer-encoding") == "chunked":
                size = await self._end_of_chunks(end)
            while len(self._buffer) < size:
                await self._wait()
        raw = bytes(self._buffer[:size])
        del self._buffer[:size]
        return raw

    async def _end_of_chunks(self, start: int) -> int:
        while True:
            while (end := self._buffer.find(b"\r\n", start)) < 0:
                await self._wait()
            size = int(self._buffer[start:end], 16)
            start = end + 2 + size + 2
            if size == 0:
                return start

    async def _wait(self) -> None:
        self._more.clear()
        await self._more.wait()


class RawEngine:
    """Listens on a port of its own; says nothing until told what to answer."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.tls = tls
        self.handshakes = 0  # connections that got so far
        self.requests: list[Received] = []
        self.wire = bytearray()  # every byte that came, in whatever shape
        self.connections: set[Connection] = set()
        self.port = 0
        self.eager = False  # it answers a head, and asks for no body unless the answer does
        self._then: deque[Answer] = deque()
        self._always: Answer = _nothing
        self._moved = asyncio.Event()
        self._server: asyncio.Server | None = None

    @classmethod
    @asynccontextmanager
    async def start(cls, tls: ssl.SSLContext | None = None) -> AsyncIterator[Self]:
        """Listen until the context ends."""
        engine = cls(tls)
        await engine.up()
        try:
            yield engine
        finally:
            await engine.down()

    async def up(self) -> None:
        """Listen; on the same port again after `down`."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Connection(self), LOCAL, self.port, ssl=self.tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def down(self) -> None:
        """Close every connection and the port: from now on connecting is refused."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in tuple(self.connections):
            connection.reset()
        await self.until(lambda: not self.connections)

    def then(self, *answers: Answer) -> None:
        """Answer the next requests so, in this order."""
        self._then.extend(answers)

    def always(self, answer: Answer) -> None:
        """Answer so whatever `then` does not say."""
        self._always = answer

    def answer(self) -> Answer:
        return self._then.popleft() if self._then else self._always

    def moved(self) -> None:
        self._moved.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until what comes, or the end of a connection, makes this true."""
        async with asyncio.timeout(PATIENCE):
            while not condition():
                self._moved.clear()
                await self._moved.wait()

    async def received(self, count: int) -> Received:
        """Wait until so many requests came; gives the last of them."""
        await self.until(lambda: len(self.requests) >= count)
        return self.requests[count - 1]


async def _nothing(_: Received, connection: Connection) -> None:
    await connection.left.wait()
