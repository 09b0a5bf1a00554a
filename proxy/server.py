"""aiohttp's HTTP server, made strict and without its voice.

aiohttp accepts more than RFC 9112 defines, and quotes the bytes that it could not read, to the caller
and in its log, where an Authorization header may be among them. What is no plain HTTP/1.x request is
answered here, in our words, and the connection is closed: who reads its bytes in another way than we do
must not find a second request in them.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable
from functools import partial
from http import HTTPStatus
from typing import Any, Final

import structlog
from aiohttp import HttpVersion10, HttpVersion11, web
from aiohttp.http_exceptions import BadHttpMessage, HttpProcessingError, LineTooLong
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import _ErrInfo

from proxy import errors
from proxy.errors import Denied
from proxy.exchange import request_id

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

MAX_HEADERS: Final = 64 * 1024  # bytes of all headers of one request together
MAX_FRAMING: Final = 512 * 1024  # bytes of chunk extensions and the like; aiohttp reads 256 KiB at a time
FRAMING_RATIO: Final = 8  # a chunk of one byte is six bytes long; what needs more does not mean to be read

# RFC 3986, section 3.2.2, without what no name of a host has: user, path, query, spaces, escapes.
_HOST = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?", re.ASCII)

log = structlog.get_logger("server")


class Server(web.Server):
    """Makes one `_Connection` for each that comes in."""

    def __init__(self, handler: Handler, *, header_timeout: float, **options: Any) -> None:
        """`header_timeout` in seconds is for the whole head; other options are those of `web.Server`."""
        super().__init__(partial(_checked, handler), **options)
        self.header_timeout = header_timeout
        self._options = {name: value for name, value in options.items() if name != "handler_cancellation"}

    def __call__(self) -> web.RequestHandler:
        return _Connection(self, loop=self._loop, **self._options)


class _Connection(web.RequestHandler):
    """Watches the bytes as they come, for what aiohttp's parser does not tell of."""

    __slots__ = ("_answered", "_body", "_body_bytes", "_ending", "_head_bytes", "_header_timeout", "_late")

    def __init__(self, manager: Server, **options: Any) -> None:
        super().__init__(manager, **options)
        self._header_timeout = manager.header_timeout
        self._late: asyncio.TimerHandle | None = None  # set while a head is under way
        self._head_bytes = 0  # of the head that is under way
        self._ending = b""  # the last four bytes that came
        self._body: StreamReader | None = None  # of the last request that came
        self._body_bytes = 0  # with their framing
        self._answered: StreamReader | None = None  # the body of the last request that has its answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._wait_for_head()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._head_came()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        body = self._body if self._body is not None and not self._body.is_eof() else None
        count = self._request_count
        super().data_received(data)
        if self._force_close:
            return
        self._ending = (self._ending + data)[-4:]
        if self._request_count > count:
            message, self._body = self._messages[-1]
            self._body_bytes = 0
            self._head_came()
            if isinstance(message, _ErrInfo):
                self._broken(body)
            elif self._body is EMPTY_PAYLOAD and self._ending != b"\r\n\r\n":
                self._wait_for_head()  # the next one has begun
        elif body is not None:
            self._body_bytes += len(data)
            if self._body_bytes > MAX_FRAMING + FRAMING_RATIO * body.total_bytes:
                self._broken(body)
        elif data and not self._buffer_paused:
            self._head_goes_on(len(data))

    def _broken(self, body: StreamReader | None) -> None:
        """Tell whoever reads `body` that it will never be whole: aiohttp would let them wait."""
        if body is None:
            return
        if body is self._answered:  # nobody reads it any more
            self.force_close()
            return
        body.set_exception(web.RequestPayloadError())
        body.feed_eof()

    def answered(self, inbound: web.BaseRequest) -> None:
        """Say that nobody will read the body of this request any more."""
        self._answered = inbound.content

    def _head_goes_on(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > MAX_HEADERS:
            self._end(_too_large())
        elif self._late is None:
            self._wait_for_head()

    def _wait_for_head(self) -> None:
        self._head_came()
        self._late = self._loop.call_later(self._header_timeout, self._head_is_late)

    def _head_came(self) -> None:
        self._head_bytes = 0
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _head_is_late(self) -> None:
        if self._busy():
            self._wait_for_head()  # a pipelined one; what is under way is not to be cut for it
        else:
            self._end(Denied("request_timeout", f"No whole head came in {self._header_timeout:g} seconds."))

    def _busy(self) -> bool:
        return self._request_in_progress or bool(self._messages)

    def _end(self, denied: Denied) -> None:
        """Close, with an answer if one can be given: something was asked, and no other is under way."""
        if self._ending and not self._busy() and self.transport is not None:
            self.transport.write(_answer(denied))
        self.force_close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer bytes that are no request; nothing of them is repeated anywhere. Always raises."""
        del status, message
        if isinstance(exc, ConnectionError) or request.writer.output_size > 0:
            raise ConnectionError("the caller left, or an answer is under way already") from None
        if not isinstance(exc, HttpProcessingError):
            log.error("the gateway itself failed", error=type(exc).__name__)
        if request.transport is not None:
            request.transport.write(_answer(_unreadable(exc)))
            request.transport.close()
        raise ConnectionError("answered, and closed") from None


async def _checked(handler: Handler, inbound: web.BaseRequest) -> web.StreamResponse:
    """Refuse what aiohttp lets through and RFC 9112 does not, or we do not."""
    refused = _refused(inbound)
    if refused is None:
        try:
            return await handler(inbound)
        finally:
            if isinstance(inbound.protocol, _Connection):
                inbound.protocol.answered(inbound)
    if inbound.transport is not None:
        inbound.transport.write(_answer(refused, bodiless=inbound.method == "HEAD"))
        inbound.transport.close()
    raise ConnectionError("answered, and closed")


def _refused(inbound: web.BaseRequest) -> Denied | None:
    if inbound.version not in (HttpVersion10, HttpVersion11):
        return _version()
    if sum(len(name) + len(value) for name, value in inbound.raw_headers) > MAX_HEADERS:
        return _too_large()
    if inbound.method == "CONNECT" or not inbound.raw_path.startswith("/"):
        return Denied("invalid_request", "The target of a request must be a path (RFC 9112, section 3.2.1).")
    if not all(_HOST.fullmatch(host) for host in inbound.headers.getall("Host", ())):
        return Denied("invalid_request", "Host must name a host (RFC 9112, section 3.2).")
    codings = [coding.lower() for coding in inbound.headers.getall("Transfer-Encoding", ())]
    if codings and (codings != ["chunked"] or inbound.version == HttpVersion10):
        return Denied("invalid_request", "The only transfer coding here is chunked, in HTTP/1.1.")
    return None


def _unreadable(exc: BaseException | None) -> Denied:
    """What a parser's complaint means; its words are read here and not repeated."""
    said = exc.message if isinstance(exc, HttpProcessingError) else ""
    if isinstance(exc, LineTooLong):
        return Denied("headers_too_large", "The request line or a header is too long.")
    if isinstance(exc, BadHttpMessage) and said == "Too many headers received":
        return Denied("headers_too_large", "There are too many headers.")
    if "Invalid HTTP version" in said or "Pause on PRI/Upgrade" in said:
        return _version()
    if isinstance(exc, HttpProcessingError):
        return Denied("invalid_request", "This is not HTTP/1.1 as RFC 9112 defines it.")
    return Denied("internal_error", "Something went wrong here; the log knows more.")


def _too_large() -> Denied:
    return Denied("headers_too_large", f"All headers together may be {MAX_HEADERS} bytes long.")


def _version() -> Denied:
    return Denied("http_version", "Only HTTP/1.1 and HTTP/1.0 are spoken here.")


def _answer(denied: Denied, *, bodiless: bool = False) -> bytes:
    """A whole answer, always HTTP/1.1: aiohttp would repeat the version that was asked for."""
    body = errors.body(denied, "openai", "")
    headers = [
        ("Content-Type", "application/json"),
        ("Content-Length", str(len(body))),
        ("Connection", "close"),
        ("X-Request-Id", request_id(None)),
        ("Server", "hubgate"),
        *errors.headers(denied),
    ]
    head = [f"HTTP/1.1 {denied.status} {HTTPStatus(denied.status).phrase}"]
    head += [f"{name}: {value}" for name, value in headers]
    return "\r\n".join([*head, "", ""]).encode("ascii") + (b"" if bodiless else body)
