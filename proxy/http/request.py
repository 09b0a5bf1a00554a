"""One request as it comes in, and the answer as it goes out."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Final, Protocol

from hubgate.proxy.frozen_struct import FrozenStruct

Headers = tuple[tuple[str, str], ...]

WINDOW: Final = 64 * 1024  # bytes of a body that are held before somebody reads them
PIECE: Final = 1024  # bytes that are worth an object of their own, which takes some forty more

# Every header of a request that anything here reads, or passes on; no other is kept.
KNOWN: Final = frozenset(
    {
        "accept",
        "api-key",
        "authorization",
        "content-encoding",
        "content-length",
        "content-type",
        "expect",
        "host",
        "origin",
        "traceparent",
        "tracestate",
        "transfer-encoding",
        "x-api-key",
        "x-forwarded-for",
        "x-request-id",
    }
)

_CREDENTIALS: Final = frozenset({"authorization", "x-api-key", "api-key"})
_OPENINGS: Final = {status.value: f"HTTP/1.1 {status} {status.phrase}\r\n" for status in HTTPStatus}


class BodyError(Exception):
    """The body does not come to its end: malformed chunks, or more framing than content."""


class Flow(Protocol):
    """Where the bytes of an answer come from: to be held while the caller reads too slowly."""

    def pause(self) -> None: ...
    def resume(self) -> None: ...


class Link(Flow, Protocol):
    """What a request needs of its connection, whose reading it can hold in turn."""

    @property
    def date(self) -> str: ...  # of the `Date` header, now
    @property
    def draining(self) -> bool: ...  # whether this answer is the connection's last
    @property
    def behind(self) -> bool: ...  # whether the caller has not taken what was sent
    @property
    def write(self) -> Callable[[bytes], None]: ...  # the transport's own: each piece of a stream goes there
    def admit(self) -> None: ...
    def set_source(self, source: Flow | None) -> None: ...
    def finished(self, *, keep: bool) -> None: ...
    def cut(self) -> None: ...


def lines(headers: Iterable[tuple[str, str]]) -> str:
    """Headers as they go over the wire. Raises `ValueError` if one of them would be two lines."""
    made = ""
    for name, value in headers:
        if "\r" in value or "\n" in value:
            raise ValueError(f"the header {name} of an answer holds a line break")
        made += f"{name}: {value}\r\n"
    return made


class Response(FrozenStruct):
    """A whole answer, to be sent in one piece; its headers as `lines` makes them."""

    status: int
    body: bytes
    lines: str = ""
    close: bool = False  # whether the rest of the request is not worth reading


class RawHead:
    """A request line and headers, checked; one object serves requests of a connection that say the same.

    `headers` has those that are `KNOWN`, with lower-case names, less `Content-Length`, in which repetitions
    differ. `target` is the request target as sent.
    """

    def __init__(
        self,
        *,
        method: str,
        target: str,
        version: str,
        headers: Headers,
        peer: str,
        keep_alive: bool,
        last: "RawHead | None" = None,
    ) -> None:
        """`last` is the one before it on its connection."""
        self.method = method
        self.target = target
        self.version = version
        self.headers = headers
        self.peer = peer
        self.keep_alive = keep_alive
        self.noted: object = None  # what the handler made of it, for the next request that has it
        self.before: object = None if last is None else last.noted  # and of the one before

    def same(self, other: "RawHead") -> bool:
        """Whether what is kept of both says the same."""
        return (
            self.target == other.target
            and self.headers == other.headers
            and self.method == other.method
            and self.version == other.version
            and self.keep_alive == other.keep_alive
        )

    @property
    def credentials(self) -> Headers:
        """The headers that can carry one."""
        return tuple([header for header in self.headers if header[0] in _CREDENTIALS])

    def all(self, name: str) -> list[str]:
        """Every value of a header, by its lower-case name, in their order."""
        return [value for found, value in self.headers if found == name]

    def header(self, name: str) -> str | None:
        """The first value of a header, by its lower-case name."""
        for found, value in self.headers:
            if found == name:
                return value
        return None


class ServerRequest:
    """A request whose head is complete. Its body is read only when somebody asks for it.

    `length` is that of its body, 0 if none is told.
    """

    def __init__(self, link: Link, head: RawHead, length: int = 0) -> None:
        self.head = head
        self.length = length
        self.keep_alive = head.keep_alive
        self.context: object = None  # what the handler knows of it, for those who may have it interrupted
        self._link = link
        self._write = link.write
        self._parts: deque[bytes] = deque()
        self._held = 0  # bytes of the body that nobody has read yet
        self._complete = False
        self._error: BodyError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._chunked = False
        self.begun = False  # some of the answer was sent

    # The request's body, as the connection feeds it.

    @property
    def room(self) -> int:
        """How many bytes of the body are taken before somebody reads them."""
        return max(0, WINDOW - self._held)

    @property
    def kept(self) -> int:
        """How many bytes of it are in memory, about, until it is answered."""
        kept = self._held
        for _, value in self.head.headers:
            kept += len(value)
        return kept

    def feed(self, part: bytes) -> None:
        """Take the next bytes of the body; a full window stops the reading until it is asked for."""
        if self._parts and len(self._parts[-1]) < PIECE:
            self._parts[-1] += part
        else:
            self._parts.append(part)
        self._held += len(part)
        if self._held >= WINDOW:
            self._link.pause()
        self._wake()

    def feed_end(self, error: BodyError | None = None) -> None:
        """The body is complete, or never will be."""
        self._complete = error is None
        self._error = error
        self._wake()

    def read_whole(self) -> bytes | None:
        """The whole body if all of it is here, else `None`; then `read` it."""
        if not self._complete or len(self._parts) > 1:
            return None
        self._held = 0
        return self._parts.pop() if self._parts else b""

    async def read(self) -> bytes:
        """The next bytes of the body, b"" at its end. Raises `BodyError`."""
        while not self._parts:
            if self._complete:
                return b""
            if self._error is not None:
                raise self._error
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        part = self._parts.popleft()
        held = self._held
        self._held -= len(part)
        if held >= WINDOW > self._held:
            self._link.resume()
        return part

    def go_on(self) -> None:
        """Tell a caller who asked for it to send the body (RFC 9110, section 10.1.1)."""
        if not self._parts and not self._complete:
            self._write(b"HTTP/1.1 100 Continue\r\n\r\n")

    # The answer.

    def respond(self, response: Response) -> None:
        """Send a whole answer; to HEAD, its head alone.

        One with status 204 or 304 has no body, and is not said to have one (RFC 9110, section 8.6).
        """
        keep = self.keep_alive and self._complete and not (response.close or self._link.draining)
        bodiless = response.status in (204, 304)
        length = "" if bodiless else f"Content-Length: {len(response.body)}\r\n"
        head = self._head(response.status, response.lines, length, keep=keep)
        self._write(head if bodiless or self.head.method == "HEAD" else head + response.body)
        self._link.finished(keep=keep)

    def begin(self, status: int, lines: str, *, length: int | None) -> bytes:
        """The head of an answer whose body follows in pieces; to be sent with the first of them.

        Its headers are as `lines` makes them. Without a `length` it is sent in chunks, or, to HTTP/1.0,
        ends with the connection.
        """
        self.keep_alive = self.keep_alive and self._complete and not self._link.draining
        self._chunked = length is None and self.head.version == "1.1"
        framing = ""
        if length is not None:
            framing = f"Content-Length: {length}\r\n"
        elif self._chunked:
            framing = "Transfer-Encoding: chunked\r\n"
        else:
            self.keep_alive = False
        return self._head(status, lines, framing, keep=self.keep_alive)

    def write(self, data: bytes, before: bytes = b"", chunk: bytes = b"") -> None:
        """Send a piece of the body, which is not empty; `before` is the head that goes with the first.

        `chunk` is the same piece as a chunk, where there is one already.
        """
        self.begun = True
        if not self._chunked:
            self._write(before + data if before else data)
        elif chunk and not before:
            self._write(chunk)
        else:
            self._write(b"%b%x\r\n%b\r\n" % (before, len(data), data))

    def end(self, before: bytes = b"") -> None:
        """The answer is complete."""
        last = b"0\r\n\r\n" if self._chunked else b""
        if before or last:
            self._write(before + last)
        self._link.finished(keep=self.keep_alive)

    def admit(self) -> None:
        """Say that the caller may call: where there are too many connections, this one stays."""
        self._link.admit()

    def set_source(self, source: Flow | None) -> None:
        """Hold this source while the caller does not read what was sent already."""
        self._link.set_source(source)

    @property
    def behind(self) -> bool:
        """Whether the caller does not read as fast as we write, so that much of it is still here."""
        return self._link.behind

    def cut(self) -> None:
        """Close the connection, so that what was sent of the answer cannot look complete."""
        self._link.cut()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _head(self, status: int, lines: str, framing: str, *, keep: bool) -> bytes:
        connection = ""
        if not keep:
            connection = "Connection: close\r\n"
        elif self.head.version == "1.0":
            connection = "Connection: keep-alive\r\n"
        date = self._link.date  # RFC 9110, section 6.6.1
        return f"{_OPENINGS[status]}{lines}{framing}Date: {date}\r\n{connection}\r\n".encode("latin-1")
