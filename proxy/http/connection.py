"""One caller's connection: bytes to requests by llhttp, which are answered one after the other.

llhttp is strict about framing: a length beside chunks, two lengths, folded headers, control characters
and bare line feeds are errors (RFC 9112, sections 5, 6 and 7). What it lets pass and we do not stands in
`_check`.
"""

import asyncio
import re
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, Protocol, cast

import httptools
import structlog

from proxy.errors import Code
from proxy.http.deadline import Deadline
from proxy.http.inbound import KNOWN, BodyError, Flow, Head, Inbound, Response
from proxy.http.template import Template, template

MAX_LINE: Final = 8 * 1024  # bytes of a request line or of one header
MAX_HEAD: Final = 64 * 1024  # bytes of all headers of a request
MAX_HEADERS: Final = 256
MAX_PIPELINED: Final = 32  # requests that wait for the answers before them; no more is read then
SMALL_READ: Final = 8 * 1024  # bytes that are read at once where a head is due
MAX_FRAMING: Final = 64 * 1024  # bytes of chunk framing, beyond sixteen for each byte of content
HIGH_WATER: Final = 64 * 1024  # bytes that wait to be sent before their source is held
LINGER: Final = 10.0  # seconds in which what still comes after a last answer is thrown away
STALLED: Final = 60.0  # seconds in which a caller takes nothing of a last answer (nginx's `send_timeout`)

_NAMES: Final = {name.encode(): name for name in KNOWN}
# RFC 9110, section 7.2: uri-host [":" port]; no path, query, user or escapes.
_HOST: Final = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?", re.ASCII)
# What llhttp says of versions that it does not know, and of HTTP/2's preface.
_VERSIONS: Final = ("Invalid HTTP version", "Pause on PRI/Upgrade")

log = structlog.get_logger("http")


class _Faulty(Exception):  # noqa: N818 - the caller's fault, not ours
    def __init__(self, code: Code) -> None:
        super().__init__(code)
        self.code = code


class Server(Protocol):
    """What a connection needs of the server that it belongs to."""

    buffer: memoryview  # read into by all connections in turn; a read is used up before the next
    header_timeout: float  # seconds from the first byte of a request to the end of its head
    keepalive_timeout: float  # seconds between two requests
    draining: bool

    @property
    def date(self) -> str: ...
    def opened(self, connection: "Connection") -> None: ...
    def closed(self, connection: "Connection") -> None: ...
    def handle(self, request: Inbound) -> Awaitable[None]: ...
    def refuse(self, code: Code) -> Response: ...


class Connection:
    """A buffered protocol (asyncio's), by its methods: at most one request is with the handler.

    Those that were sent behind it wait.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self.write: Callable[[bytes], None]  # the transport's
        self._peer = ""
        self.port = 0  # the caller's
        # What is being read.
        self._parser = httptools.HttpRequestParser(self)
        self._target = b""
        self._headers: list[tuple[str, str]] = []
        self._length = 0  # of the body, as the head tells it
        self._host: str | None = None  # the last good one
        self._header_count = 0
        self._head_size = 0
        self._reading: Inbound | None = None  # its body is still coming
        self._framing = 0  # bytes of the present body that were no content
        self._head_begun = False
        self._head_timed = False
        self._head_pieces = 0  # bytes of a line that has not ended
        self._served = False  # whether a request came before
        self._deaf = False  # what comes is thrown away
        self._failed = False  # it was no request
        self._completed = 0  # requests that ended in what was read last
        self._head: Head | None = None  # the last one
        self._again = False  # it came twice in a row
        self._template: Template | None = None  # of one that did
        self._lingering = False
        self._left = 0  # bytes that were unsent when the connection was closed, or since looked at
        # What is being answered.
        self._waiting: deque[Inbound | Code] = deque()
        self._current: Inbound | None = None
        self._task: asyncio.Task[None] | None = None  # from the first request on, one for all of them
        self._turn: asyncio.Future[None] | None = None  # what it waits for between two
        self._source: Flow | None = None
        self._choked = False  # the caller does not read as fast as we write
        self._paused = False
        # When it must have moved on.
        self._deadline = Deadline(self._loop, self._late)

    @property
    def idle(self) -> bool:
        """Whether no request is under way."""
        return self._current is None

    @property
    def unsent(self) -> int:
        """Bytes of answers that the caller has not taken yet."""
        return self._transport.get_write_buffer_size()

    def end(self) -> asyncio.Task[None] | None:
        """Close now: what was answered is still sent. Gives the task of what is under way, which is cut."""
        if self.idle and not self._lingering:
            self._close()
            return None
        self._transport.abort()
        return self._task

    def abort(self) -> None:
        """Close now, whatever is unsent."""
        self._transport.abort()

    # Called by the transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass of it
        transport.set_write_buffer_limits(high=HIGH_WATER)
        self.write = transport.write
        peer = transport.get_extra_info("peername")
        self._peer, self.port = peer[:2] if isinstance(peer, tuple) else ("", 0)
        self._server.opened(self)
        self._deadline.expire_in(self._server.header_timeout)

    def get_buffer(self, sizehint: int) -> memoryview:
        del sizehint
        # A large read is for bodies: many small requests at once would take up far more than their bytes.
        size = SMALL_READ if self._reading is None else max(1, self._reading.room)
        return self._server.buffer[:size]

    def buffer_updated(self, nbytes: int) -> None:
        if self._deaf:
            return
        data = self._server.buffer[:nbytes]
        if not self._repeated(data):
            self._read(data)

    def eof_received(self) -> None:
        """The caller left; an answer under way is for nobody."""
        self._close() if self.idle else self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._server.closed(self)
        self._deadline.cancel()
        self._deaf = True
        self._waiting.clear()
        if self._task is not None and (self._turn is not None or not self.idle):
            self._task.cancel()

    def pause_writing(self) -> None:
        self._choked = True
        if self._source is not None:
            self._source.pause()

    def resume_writing(self) -> None:
        self._choked = False
        if self._source is not None:
            self._source.resume()
        elif self._current is None and self._waiting:
            self._next()

    # Called by the parser.

    def on_message_begin(self) -> None:
        self._head_begun = True
        self._head_timed = self._current is None and self._deadline.at is not None and not self._served
        self._head_pieces = 0
        self._target = b""
        self._headers = []
        self._length = 0
        self._header_count = 0
        self._head_size = 0

    def on_url(self, url: bytes) -> None:
        self._target += url
        if len(self._target) > MAX_LINE:
            raise _Faulty("headers_too_large")

    def on_header(self, name: bytes, value: bytes) -> None:
        size = len(name) + len(value)
        self._head_size += size
        self._header_count += 1
        if size > MAX_LINE or self._head_size > MAX_HEAD or self._header_count > MAX_HEADERS:
            raise _Faulty("headers_too_large" if self._head_begun else "invalid_request")
        known = _NAMES.get(name.lower())
        if known == "content-length" and self._head_begun:
            self._length = int(value)  # digits, and once at most, by the parser's word
        elif known is not None:  # after the body these are trailers, for nobody
            self._headers.append((known, value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        self._head_begun = False
        self._served = True
        self._deadline.at = None
        version = self._parser.get_http_version()
        method = self._parser.get_method()
        self._check(version, method)
        if self._parser.should_upgrade():
            return  # declined below; the request comes once more without
        self._framing = 0
        head = Head(
            method=method.decode(),
            target=self._target.decode("latin-1"),
            version=version,
            headers=tuple(self._headers),
            peer=self._peer,
            keep_alive=self._parser.should_keep_alive(),
            last=self._head,
        )
        self._again = self._head is not None and self._head.same(head)
        if self._head is None or not self._again:
            self._head, self._template = head, None
        self._reading = request = Inbound(self, self._head, self._length)
        self._came(request)

    def on_body(self, body: bytes) -> None:
        assert self._reading is not None  # noqa: S101 - llhttp's order
        self._framing -= 17 * len(body)
        self._reading.feed(body)

    def on_message_complete(self) -> None:
        self._completed += 1
        if self._reading is not None:
            self._reading.feed_end()
            if not self._reading.keep_alive:
                self._deaf = True  # the caller said that nothing comes after it
            self._reading = None

    # Called by the request that is being answered.

    @property
    def date(self) -> str:
        return self._server.date

    @property
    def draining(self) -> bool:
        return self._server.draining

    def follow(self, source: Flow | None) -> None:
        self._source = source
        if source is not None and self._choked:
            source.pause()

    def pause(self) -> None:
        if not self._paused and not self._deaf:
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._paused and len(self._waiting) <= MAX_PIPELINED:
            self._paused = False
            self._transport.resume_reading()

    def finished(self, *, keep: bool) -> None:
        self._source = None
        self._current = None
        self.resume()
        if self._transport.is_closing():
            return
        if not keep:
            self._leave()
        elif self._waiting:
            if not self._choked:  # else its answer would only wait with the others
                self._next()
        elif self._head_begun:
            self._head_timed = True
            self._deadline.expire_in(self._server.header_timeout)
        else:
            self._deadline.expire_in(self._server.keepalive_timeout)

    def cut(self) -> None:
        """End it so that the caller sees it broken off; what was written before still goes out."""
        self._source = None
        self._close()

    # What reading leads to.

    def _repeated(self, data: memoryview) -> bool:
        """Take a request that comes whole and has the head of the last one; nothing of anything else.

        The parser stands between two requests, and need not see this one.
        """
        head, template = self._head, self._template
        if head is None or template is None or self._reading is not None or self._head_begun:
            return False
        raw = bytes(data)
        start = template.body(raw)
        if not start:
            return False
        self._served = True
        self._deadline.at = None
        request = Inbound(self, head, len(raw) - start)
        if start < len(raw):
            request.feed(raw[start:])
        request.feed_end()
        self._came(request)
        self._deaf = not head.keep_alive
        return True

    def _came(self, request: Inbound) -> None:
        if self._current is None and not self._waiting:
            self._start(request)
        else:
            self._waiting.append(request)
            if len(self._waiting) > MAX_PIPELINED:
                self.pause()

    def _read(self, data: memoryview) -> None:
        between = self._reading is None and not self._head_begun  # two requests
        self._completed = 0
        size = self._head_size
        self._framing += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._decline_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            fault = error.__context__
            if isinstance(fault, _Faulty):
                self._fail(fault.code)
            else:
                self._fail("http_version" if str(error) in _VERSIONS else "invalid_request")
        else:
            if self._head_begun:
                self._wait_for_head(len(data) if size == self._head_size else 0)
            elif self._framing > MAX_FRAMING and self._reading is not None:
                self._fail("invalid_request")
            elif between and self._completed == 1 and self._again:
                self._template = template(bytes(data))

    def _wait_for_head(self, size: int) -> None:
        """A head comes in pieces, `size` bytes of which ended no line: the parser holds those."""
        self._head_pieces = self._head_pieces + size if size else 0
        if self._head_pieces > MAX_LINE:
            self._fail("headers_too_large")
        elif self._current is None and not self._head_timed:
            self._head_timed = True
            self._deadline.expire_in(self._server.header_timeout)

    def _decline_upgrade(self, rest: memoryview) -> None:
        """Read the request as if it did not ask for another protocol (RFC 9110, section 7.8)."""
        kept = list(self._headers)  # `Upgrade`, `HTTP2-Settings` and `Connection` are not among them
        if self._length:
            kept.append(("content-length", str(self._length)))
        if not self._parser.should_keep_alive():
            kept.append(("connection", "close"))
        line = self._parser.get_method() + b" " + self._target + b" HTTP/1.1\r\n"
        head = line + "".join([f"{name}: {value}\r\n" for name, value in kept]).encode("latin-1") + b"\r\n"
        self._parser = httptools.HttpRequestParser(self)
        self._read(memoryview(head))
        if rest and not self._deaf:
            self._read(rest)

    def _fail(self, code: Code) -> None:
        """Read nothing more; tell the caller, after the answers that are due before."""
        self._deaf = self._failed = True
        reading, self._reading = self._reading, None
        if reading is not None:
            reading.keep_alive = False
            reading.feed_end(BodyError())  # whoever handles it tells
        else:
            self._waiting.append(code)
            if self._current is None:
                self._next()

    def _check(self, version: str, method: bytes) -> None:
        """Refuse what llhttp lets pass."""
        if version not in ("1.0", "1.1"):
            raise _Faulty("http_version")
        if method == b"CONNECT":
            raise _Faulty("invalid_request")
        hosts = types = 0
        for name, value in self._headers:
            if name == "host":
                hosts += 1
                if value != self._host and not _HOST.fullmatch(value):
                    raise _Faulty("invalid_request")
                self._host = value
            elif name == "content-type":
                types += 1
            elif name == "transfer-encoding" and (version == "1.0" or value.lower() != "chunked"):
                raise _Faulty("invalid_request")  # RFC 9112, section 6.1
        if types > 1 or hosts > 1 or not (hosts or version == "1.0"):
            raise _Faulty("invalid_request")
        if not self._target.startswith(b"/"):
            raise _Faulty("invalid_request")  # absolute, authority and asterisk form are for other servers

    # Answering, one after the other.

    def _next(self) -> None:
        following = self._waiting.popleft()
        if isinstance(following, Inbound):
            self._start(following)
            return
        none = Head(method="", target="", version="1.1", headers=(), peer=self._peer, keep_alive=False)
        last = Inbound(self, none)
        self._current = last
        last.respond(self._server.refuse(following))

    def _start(self, request: Inbound) -> None:
        self._current = request
        if self._task is None:
            self._task = self._loop.create_task(self._answer())
        elif self._turn is not None and not self._turn.done():
            self._turn.set_result(None)

    async def _answer(self) -> None:
        """Have one request after the other handled, until one is cut or the connection is gone."""
        while not self._transport.is_closing():
            request = self._current
            if request is None:
                self._turn = self._loop.create_future()
                await self._turn
                self._turn = None
                continue
            try:
                await self._server.handle(request)
            except Exception as error:  # noqa: BLE001 - its text may quote the request
                log.error("the gateway itself failed", error=type(error).__name__)  # noqa: TRY400
            if self._current is request:  # without a whole answer
                self.cut()

    def _leave(self) -> None:
        """Close after a last answer; not before the caller could read it (RFC 9112, section 9.6)."""
        self._waiting.clear()
        self._deaf = True
        if self._reading is None and not self._failed:
            self._close()
            return
        # Closing with bytes unread resets the connection, and the answer might be lost with it.
        self._reading = None
        self._lingering = True
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._deadline.expire_in(LINGER)

    def _close(self) -> None:
        """Close when all is sent, or when nobody takes it: such a connection would stay for ever."""
        self._transport.close()
        self._left = self.unsent
        if self._left:
            self._deadline.expire_in(STALLED)

    def _late(self) -> None:
        """The caller has not moved on in time."""
        if self._lingering or (self._transport.is_closing() and self.unsent >= self._left):
            self._transport.abort()
        elif self._head_begun and not self._transport.is_closing():
            self._fail("request_timeout")
        else:
            self._close()
