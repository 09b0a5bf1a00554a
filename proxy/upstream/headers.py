"""Which headers cross, each way: an allow-list, so that nothing is passed on by forgetting it."""

from collections.abc import Sequence
from typing import Final

from proxy.http.inbound import Headers

# W3C Trace Context, and what describes a body.
REQUEST: Final = frozenset({"traceparent", "tracestate", "accept"})
RESPONSE: Final = frozenset({"content-type", "cache-control"})


def to_upstream(
    path: str, address: tuple[str, int], inbound: Headers, length: int, *, grant: str, request_id: str
) -> bytes:
    """The head of a forwarded request: the allowed headers of the caller's that are ASCII, and ours.

    The caller gets the answer's bytes without a label of their coding, so none is asked for.
    """
    kept = "".join(f"{name}: {value}\r\n" for name, value in inbound if name in REQUEST and value.isascii())
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    return (
        f"POST {path} HTTP/1.1\r\n"
        f"Host: {host}:{address[1]}\r\n"
        f"{kept}"
        "User-Agent: hubgate\r\n"
        "Accept-Encoding: identity\r\n"
        "Content-Type: application/json\r\n"
        f"Content-Length: {length}\r\n"
        f"X-Hubgate-Grant: {grant}\r\n"
        f"X-Request-Id: {request_id}\r\n\r\n"
    ).encode("latin-1")


def to_caller(inbound: Sequence[tuple[str, str]]) -> Headers:
    """The headers of a relayed answer."""
    return tuple([(_NAMES[name], value) for name, value in inbound if name in RESPONSE])


_NAMES: Final = {"content-type": "Content-Type", "cache-control": "Cache-Control"}
