"""aiohttp's HTTP server without its voice: what it cannot parse is answered, and logged, in our words.

aiohttp quotes the bytes that it could not read, to the caller and in its log, and an Authorization
header may be among them.
"""

from typing import Any

import structlog
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong

from proxy import errors
from proxy.errors import Denied
from proxy.exchange import request_id

log = structlog.get_logger("server")


class Server(web.Server):
    """Makes one `_Connection` for each that comes in."""

    def __init__(self, handler: Any, **options: Any) -> None:
        """Options are those of `web.Server`."""
        super().__init__(handler, **options)
        self._options = {name: value for name, value in options.items() if name != "handler_cancellation"}

    def __call__(self) -> web.RequestHandler:
        return _Connection(self, loop=self._loop, **self._options)


class _Connection(web.RequestHandler):
    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer bytes that are no request; nothing of them is repeated anywhere."""
        del status, message
        if isinstance(exc, ConnectionError) or request.writer.output_size > 0:
            raise ConnectionError("the caller left, or an answer is under way already") from None
        if isinstance(exc, LineTooLong):
            denied = Denied("headers_too_large", "The request line or a header is too long.")
        elif isinstance(exc, HttpProcessingError):
            denied = Denied("invalid_request", "This is not HTTP/1.1 as RFC 9112 defines it.")
        else:
            log.error("the gateway itself failed", error=type(exc).__name__)
            denied = Denied("internal_error", "Something went wrong here; the log knows more.")
        body = errors.body(denied, "openai", "")
        response = web.Response(body=body, status=denied.status, content_type="application/json")
        response.headers["X-Request-Id"] = request_id(None)
        response.headers["Server"] = "hubgate"
        for name, value in errors.headers(denied):
            response.headers[name] = value
        response.force_close()
        return response
