"""How the demo Hub fails on request: errors, silence, slowness and cut connections."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

ROWS: Final[Mapping[str, str]] = {
    "429": "rate_limited",
    "500": "internal_error",
    "502": "bad_gateway",
    "503": "unavailable",
    "504": "gateway_timeout",
}
"""Modes that answer with a row of `hub.yaml`'s `errors`."""
MODES: Final = (*ROWS, "page", "hang", "slow", "cut", "disconnect")
ORIGINS: Final = ("hub", "files")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """One way to fail. Raises ValueError for a mode or an origin that does not exist.

    - 429, 500, 502, 503, 504: answer so;
    - page: answer 200 with a page for browsers, as what stands before a Hub does;
    - hang: answer only when the outage is over;
    - slow: answer after `seconds`;
    - cut: send `after_bytes` of the body, then cut the connection;
    - disconnect: cut the connection without an answer.
    """

    mode: str
    origin: str = "hub"
    paths: str = "*"
    """Glob on the path as it was sent: only these requests fail."""
    seconds: float = 1.0
    after_bytes: int = 0
    times: int | None = None
    """How many requests fail before the outage is over; None until it is lifted."""

    def __post_init__(self) -> None:
        """Refuse what the server would not know."""
        if self.mode not in MODES or self.origin not in ORIGINS:
            msg = f"mode is one of {', '.join(MODES)}; origin is one of {', '.join(ORIGINS)}"
            raise ValueError(msg)


class Outages:
    """The outage of each origin, and the requests that it holds."""

    def __init__(self) -> None:
        self._outages: dict[str, Outage] = {}
        self._left: dict[str, int] = {}
        self._over = asyncio.Event()
        self._moved = asyncio.Event()
        self.held = 0
        """How many requests hang now."""
        self.met = 0
        """How many requests met an outage so far."""

    def set(self, outage: Outage) -> None:
        """Begin an outage, in place of its origin's last one."""
        self.lift(outage.origin)
        self._outages[outage.origin] = outage
        if outage.times is not None:
            self._left[outage.origin] = outage.times

    def lift(self, origin: str | None = None) -> None:
        """End the outage of one origin, or all; requests that hang are answered."""
        for name in ORIGINS if origin is None else (origin,):
            self._outages.pop(name, None)
            self._left.pop(name, None)
        self._over.set()
        self._over = asyncio.Event()

    def take(self, origin: str, path: str) -> Outage | None:
        """Give the outage that this request meets, and count it."""
        outage = self._outages.get(origin)
        if outage is None or not fnmatchcase(path, outage.paths):
            return None
        if outage.times is not None:
            if self._left[origin] == 0:
                return None
            self._left[origin] -= 1
        self.met += 1
        return outage

    async def hold(self) -> None:
        """Wait until an outage is lifted."""
        over = self._over
        self.held += 1
        self._moved.set()
        try:
            await over.wait()
        finally:
            self.held -= 1
            self._moved.set()

    async def wait_held(self, count: int) -> None:
        """Wait until exactly `count` requests hang: for a test that wants no sleeps."""
        while self.held != count:
            self._moved.clear()
            await self._moved.wait()
