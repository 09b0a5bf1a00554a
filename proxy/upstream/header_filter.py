"""Which headers cross, each way: an allow-list, so that nothing is passed on by forgetting it."""

from collections.abc import Sequence
from typing import Final

from hubgate.proxy.http.request import Headers, lines

# W3C Trace Context, and what describes a body.
REQUEST: Final = frozenset({"traceparent", "tracestate", "accept"})
RESPONSE: Final = frozenset({"content-type", "cache-control"})
# What stands in front of us keeps no event back and none for later. nginx buffers an answer unless told so
# (ngx_http_proxy_module, `proxy_buffering`); Ingress controllers and others obey the same header.
STREAM: Final = "Cache-Control: no-cache\r\nX-Accel-Buffering: no\r\n"


def to_upstream(
    path: str,
    address: tuple[str, int, str],
    passed: str,
    length: int | None,
    *,
    grant: str,
    cost: str,
    request_id: str,
    content_type: str = "application/json",
) -> bytes:
    """The head of a forwarded request: the caller's headers that are `passed`, as lines, and ours.

    The caller gets the answer's bytes without a label of their coding, so none is asked for. A body
    without a `length` comes in chunks, once the engine says that it wants it.
    """
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    framing = (
        "Transfer-Encoding: chunked\r\nExpect: 100-continue"
        if length is None
        else f"Content-Length: {length}"
    )
    costs = f"X-Hubgate-Cost: {cost}\r\n" if cost else ""
    return (
        f"POST {path} HTTP/1.1\r\n"
        f"Host: {host}:{address[1]}\r\n"
        f"{passed}"
        "User-Agent: hubgate\r\n"
        "Accept-Encoding: identity\r\n"
        f"Content-Type: {content_type}\r\n"
        f"{framing}\r\n"
        f"X-Hubgate-Grant: {grant}\r\n{costs}"
        f"X-Request-Id: {request_id}\r\n\r\n"
    ).encode("latin-1")


def passed(headers: Headers) -> str:
    """The allowed headers of a caller's request that are ASCII, as lines."""
    found = ""
    for name, value in headers:
        if name in REQUEST and value.isascii():
            found += f"{name}: {value}\r\n"  # one line each, by the parser's word
    return found


def to_caller(headers: Sequence[tuple[str, str]], *, streaming: bool = False) -> str:
    """The headers of a relayed answer, as lines; of a stream, with what has it pass on at once."""
    if streaming:
        return lines([(_NAMES[name], value) for name, value in headers if name == "content-type"]) + STREAM
    return lines([(_NAMES[name], value) for name, value in headers if name in RESPONSE])


_NAMES: Final = {"content-type": "Content-Type", "cache-control": "Cache-Control"}
