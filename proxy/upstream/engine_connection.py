"""A connection to an engine: HTTP/1.1 on llhttp."""

import asyncio
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol, cast

import httptools
import structlog

from hubgate.proxy.body.large_json import Pieces
from hubgate.proxy.net.chunks import content
from hubgate.proxy.net.deadline import NEVER, Deadline
from hubgate.proxy.net.repeated_head import RepeatedHead, learn_head
from hubgate.proxy.upstream.response_head import ResponseHead

MAX_LINE: Final = 8 * 1024  # bytes of one header of an answer
MAX_HEAD: Final = 64 * 1024  # bytes of all of them
CONTINUE: Final = 5.0  # seconds to wait for leave to send a body that can be sent only once
JOINED: Final = 64 * 1024  # bytes of a body that go out with the head, for one packet and one call

# The headers of an answer that anything here reads, or passes on; no other is kept.
_NAMES: Final = {
    name.encode(): name
    for name in (
        "cache-control",
        "content-encoding",
        "content-length",
        "content-type",
        "retry-after",
        "transfer-encoding",
        "x-hubgate-waited",
    )
}

_GOOD: Final = b"HTTP/1.1 200 "

# Host, port, and where TLS is spoken the name that the certificate there has to be for, else "".
Address = tuple[str, int, str]

log = structlog.get_logger("upstream")


def size(body: Pieces) -> int:
    """Bytes of a body; a loop, which is half of the time of `sum` and `map`."""
    total = 0
    for piece in body:
        total += len(piece)
    return total


class BrokenError(Exception):
    """The engine ended the connection, or what it sends is no answer."""


class TooLongError(Exception):
    """The answer took longer than any may."""


class Patience:
    """How long an engine may take, in seconds."""

    def __init__(self, *, first_byte: float, idle: float, answer: float) -> None:
        self.first_byte = first_byte
        self.idle = idle  # between two pieces, while the caller takes them
        self.answer = answer  # in all, from the head of the request on


class Receiver(Protocol):
    """Takes an answer as it comes."""

    def head(self, head: ResponseHead, length: int) -> None:
        """The head, and the length that it tells. Raises `BrokenError` to take no more."""

    def data(self, data: bytes, chunk: bytes = b"") -> None:
        """The next bytes of the body, and the chunk that they came as, where it was one."""


class BodySource(Protocol):
    """A body of unknown length that can be read once."""

    async def read(self) -> bytes:
        """The next bytes, b"" at the end. Raises `CutShortError`."""


class EngineConnection:
    """One connection to one engine, a protocol (asyncio's), by its methods; carries one request at a time."""

    def __init__(
        self,
        address: Address,
        keepalive: float,
        on_idle: "Callable[[EngineConnection], None]",
        on_lost: "Callable[[EngineConnection], None]",
        context: ssl.SSLContext | None = None,
    ) -> None:
        """It carries no other request once it was idle for `keepalive` seconds. `context` is that of its TLS.

        `on_idle` hears of it when it can carry another request, and `on_lost` when it is closed.
        """
        self.address = address
        self.context = context
        self.error: Exception | None = None  # that it ended with
        self.unheard = False  # it was ended by the engine, asked and before its first answer
        self.idle_since = 0.0
        self._keepalive = keepalive
        self._on_idle = on_idle
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._time = self._loop.time
        self._transport: asyncio.Transport
        self._parser = httptools.HttpResponseParser(self)
        self._receiver: Receiver | None = None
        self._done: asyncio.Future[None] | None = None
        self._headers: list[tuple[str, str]] = []
        self._head_size = 0
        self._length = 0  # of the body, as the head tells it
        self._in_body = False
        self._paused = False
        self._at_chunk_boundary = False  # two chunks of a body is where the parser stands
        self._parts: list[bytes] = []
        self._complete = False
        self._keep = False
        self._head: ResponseHead | None = None  # the last one
        self._repeated_head: RepeatedHead | None = None  # of it, if it may come again
        self._idle_limit = 0.0
        self._deadline = Deadline(self._loop, self._late)
        # Of a body that is sent as it comes.
        self._leave: asyncio.Event | None = None  # to send it
        self._room: asyncio.Future[None] | None = None  # while the engine does not take what was sent
        self._asking = False  # it is the caller who is waited for

    async def exchange(
        self,
        request: tuple[bytes, Pieces | BodySource],
        receiver: Receiver,
        patience: Patience,
    ) -> None:
        """Send a request, its head and its body; returns when the answer is with `receiver` as a whole.

        Raises `BrokenError`, `TimeoutError` if nothing comes for a time, and `TooLongError`. The time in
        which it is `pause`d counts only towards the last. The connection then serves no other request, nor
        after a cancellation: closing it is what tells the engine to stop, and so is an answer that comes
        before all of a `BodySource` was sent. Raises what reading that raises.
        """
        self._receiver = receiver
        self._idle_limit = patience.idle
        self._complete = False
        self._done = done = self._loop.create_future()
        self._deadline.limit = self._time() + patience.answer
        self._deadline.expire_in(patience.first_byte)
        head, body = request
        sending: asyncio.Task[None] | None = None
        if not isinstance(body, tuple):
            sending = self._loop.create_task(self._stream(head, body, patience.first_byte))
            sending.add_done_callback(self._streamed)
        elif size(body) > JOINED:
            self._transport.writelines((head, *body))
        else:
            self._transport.write(b"".join((head, *body)))
        try:
            await done
        finally:
            self._receiver = self._done = None
            unsent = sending is not None and not sending.done()
            if unsent or not (self._complete and self._keep) or self._transport.is_closing():
                self._transport.abort()
            else:
                if self._paused:  # the caller may still be slow, but not the next one
                    self.resume()
                self.idle_since = self._time()
                self._on_idle(self)
            if sending is not None:
                sending.cancel()

    async def _stream(self, head: bytes, source: BodySource, patience: float) -> None:
        """Send a body as it comes, in chunks, no faster than the engine takes it.

        The engine is asked for leave first (RFC 9110, section 10.1.1): its gate decides by the head, and
        what it refuses then can still be sent to another.
        """
        self._leave = asyncio.Event()
        self._transport.write(head)
        with suppress(TimeoutError):
            async with asyncio.timeout(CONTINUE):
                await self._leave.wait()
        while True:
            self._asking = True
            try:
                piece = await source.read()
            finally:
                self._asking = False
            self._deadline.expire_in(patience)
            self._transport.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            if not piece:
                return
            if self._room is not None:
                await self._room

    def _streamed(self, sending: asyncio.Task[None]) -> None:
        if sending.cancelled() or (error := sending.exception()) is None:
            return
        if self._done is not None and not self._done.done():
            self._done.set_exception(error)

    @property
    def fresh(self) -> bool:
        """Whether it can carry another request: not idle for too long, and its end was not seen.

        `on_lost` hears of its end only a moment later.
        """
        return self.idle_since + self._keepalive > self._time() and not self._transport.is_closing()

    def close(self) -> None:
        self._transport.close()

    def pause(self) -> None:
        """Read nothing more for now: the caller is slow. How slow they may be is not for us to say."""
        self._paused = True
        self._deadline.when = NEVER
        self._transport.pause_reading()

    def resume(self) -> None:
        self._paused = False
        if self._done is not None:
            self._deadline.expire_in(self._idle_limit)
        if not self._transport.is_closing():
            self._transport.resume_reading()

    # Called by the transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass of it

    def data_received(self, data: bytes) -> None:
        if self._receiver is None or self._done is None or self._done.done():
            self._transport.abort()  # nothing was asked
            return
        self._deadline.when = self._time() + self._idle_limit
        # Between two chunks the parser remembers nothing, so that it need not see one that is whole.
        if self._at_chunk_boundary and (start := content(data)):
            self._receiver.data(data[start:-2], data)
        elif not self._repeated(data, self._receiver, self._done):
            self._parse(data, self._receiver, self._done)

    def pause_writing(self) -> None:
        self._room = self._loop.create_future()

    def resume_writing(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        self._room = None

    def eof_received(self) -> None:
        self._ended()

    def connection_lost(self, exc: Exception | None) -> None:
        self.error = exc
        self._deadline.cancel()
        self._ended()
        self._on_lost(self)

    # What reading leads to.

    def _repeated(self, data: bytes, receiver: Receiver, done: asyncio.Future[None]) -> bool:
        """Take an answer that comes whole and has the head of the last one; nothing of anything else.

        The parser stands between two answers, and need not see this one.
        """
        head, repeated = self._head, self._repeated_head
        if head is None or repeated is None or self._in_body or self._head_size:
            return False
        start = repeated.body(data)
        if not start:
            return False
        self._complete = True  # and the connection is kept, as it was the last time
        try:
            receiver.head(head, len(data) - start)
            receiver.data(data[start:])
        except BrokenError:
            self._keep = False
            self._break()
        else:
            done.set_result(None)
        return True

    def _parse(self, data: bytes, receiver: Receiver, done: asyncio.Future[None]) -> None:
        self._at_chunk_boundary = False
        whole = not self._in_body and not self._head_size  # if it comes to its end as well
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if not isinstance(error.__context__, BrokenError | None):
                log.error("an answer could not be taken", error=type(error.__context__).__name__)  # noqa: TRY400
            if not self._complete:
                self._break()
                return
            self._keep = False  # what follows an answer belongs to nobody
        # It does not if the data ends within the size of the next chunk.
        self._at_chunk_boundary = self._at_chunk_boundary and data.endswith(b"\r\n")
        if self._parts:
            parts, self._parts = self._parts, []
            receiver.data(parts[0] if len(parts) == 1 else b"".join(parts))
        if not self._in_body and not self._complete:
            self._head_size += len(data)
            if self._head_size > MAX_HEAD:
                self._break()
        elif self._complete:
            if whole and self._keep and data.startswith(_GOOD):  # and nothing interim before it
                self._repeated_head = learn_head(data)
            done.set_result(None)

    # Called by the parser.

    def on_message_begin(self) -> None:
        self._length = 0
        if self._complete:
            self._keep = False  # what follows an answer belongs to nobody

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_body or self._complete:
            return  # a trailer, or what belongs to nobody
        size = len(name) + len(value)
        self._head_size += size
        if size > MAX_LINE or self._head_size > MAX_HEAD:
            raise BrokenError
        known = _NAMES.get(name.lower())
        if known == "content-length":
            self._length = int(value)  # digits, and once at most, by the parser's word
        if known is not None:
            self._headers.append((known, value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        headers, self._headers = self._headers, []
        self._head_size = 0
        if status < 200:
            if status == 100 and self._leave is not None:
                self._leave.set()
            return  # interim (RFC 9110, section 15.2)
        if self._receiver is None or self._complete:
            raise BrokenError  # a second answer
        if self._parser.get_http_version() not in ("1.0", "1.1"):
            raise BrokenError
        self._in_body = True
        self._deadline.expire_in(self._idle_limit)
        self._repeated_head = None
        self._head = head = ResponseHead(status, headers)
        self._receiver.head(head, self._length)

    def on_chunk_header(self) -> None:
        self._at_chunk_boundary = False

    def on_body(self, body: bytes) -> None:
        if not self._complete:
            self._parts.append(body)

    def on_chunk_complete(self) -> None:
        self._at_chunk_boundary = self._in_body

    def on_message_complete(self) -> None:
        if self._in_body:
            self._in_body = self._at_chunk_boundary = False
            self._complete = True
            self._keep = self._parser.should_keep_alive()  # says so here, and only here

    # Time, and the end.

    def _break(self) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(BrokenError())

    def _ended(self) -> None:
        """By the other side, or when we are done with it."""
        if self._head is None and self._done is not None and not self._done.done():
            self.unheard = True
        self._break()

    def _late(self) -> None:
        """Nothing has moved on in time."""
        if self._done is None or self._done.done():
            return
        if self._time() >= self._deadline.limit:
            self._done.set_exception(TooLongError())
        elif self._asking:
            self._deadline.expire_in(self._idle_limit)  # whoever reads the caller's body has a limit for that
        else:
            self._done.set_exception(TimeoutError())
