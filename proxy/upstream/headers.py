"""Which headers cross, each way: an allow-list, so that nothing is passed on by forgetting it."""

from collections.abc import Iterable, Mapping
from typing import Final

# W3C Trace Context, and what describes a body.
REQUEST: Final = frozenset({"traceparent", "tracestate", "accept"})
RESPONSE: Final = frozenset({"content-type", "content-length", "cache-control"})


def to_upstream(inbound: Iterable[tuple[str, str]], *, grant: str, request_id: str) -> dict[str, str]:
    """The headers of a forwarded request: the allowed ones of the caller's that are ASCII, and ours."""
    kept = {n.lower(): value for n, value in inbound if n.lower() in REQUEST and value.isascii()}
    return {
        **kept,
        "Accept-Encoding": "identity",  # the caller gets the bytes as they come, without their label
        "Content-Type": "application/json",
        "X-Hubgate-Grant": grant,
        "X-Request-Id": request_id,
    }


def to_caller(inbound: Mapping[str, str]) -> dict[str, str]:
    """The headers of a relayed answer."""
    return {name: value for name, value in inbound.items() if name.lower() in RESPONSE}
