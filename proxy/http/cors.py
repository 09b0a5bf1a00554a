"""Which browser origins may read answers (WHATWG Fetch, section 3.3): an allow-list, empty by default.

Credentials are never allowed in that standard's sense: tokens come in headers that a script sets, and no
cookie is read here. Who may call is decided by the token alone, wherever a request comes from.
"""

from collections.abc import Collection
from typing import Final

ANYONE: Final = "*"
MAX_AGE: Final = 600  # seconds for which a browser need not ask again

# What a script may read besides the headers that are always safe.
EXPOSED: Final = (
    "X-Request-Id",
    "Request-Id",
    "Retry-After",
    "x-should-retry",
    "Server-Timing",
    "X-Hubgate-Notice",
    "x-ratelimit-limit-requests",
    "x-ratelimit-limit-tokens",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-remaining-tokens",
    "x-ratelimit-reset-requests",
    "x-ratelimit-reset-tokens",
)
_EXPOSE: Final = f"Access-Control-Expose-Headers: {', '.join(EXPOSED)}\r\n"
_VARY: Final = "Vary: Origin\r\n"
# Every header may be sent, since what is not known here is not read; `*` does not cover Authorization.
_PREFLIGHT: Final = (
    "Access-Control-Allow-Methods: GET, HEAD, POST\r\n"
    "Access-Control-Allow-Headers: Authorization, *\r\n"
    f"Access-Control-Max-Age: {MAX_AGE}\r\n"
)


class Cors:
    """The origins of `listen.cors`, or any."""

    def __init__(self, origins: Collection[str]) -> None:
        """`origins` are as browsers write them; `*` is any."""
        self._origins = frozenset(origins)
        self._any = ANYONE in self._origins

    def allows(self, origin: str | None) -> bool:
        """Whether a script of this origin may read answers; without one it is no script of a browser's."""
        return origin is not None and (self._any or origin in self._origins)

    def lines(self, origin: str | None) -> str:
        """The headers of an answer to a request with this `Origin`, as lines."""
        if self._any:
            return f"Access-Control-Allow-Origin: *\r\n{_EXPOSE}"
        if origin is None or origin not in self._origins:
            return _VARY
        return f"Access-Control-Allow-Origin: {origin}\r\n{_VARY}{_EXPOSE}"

    def preflight(self, origin_lines: str) -> str:
        """The headers of the answer to a preflight request, by what `lines` gave for it."""
        return origin_lines + _PREFLIGHT
