"""What a client that is not let in may cause: so many refusals a minute, and so many lines of the audit.

Who has no token that is accepted costs a request all the same, and a line that stays. So each client (an
IPv4 address, an IPv6 /64) has a budget of refusals. Past it the client is told to come back later, without a
line of its own: those are counted, and the count is a record. A noisy neighbour behind one address hurts
nobody with a good token: past the budget a local key is looked up only for a client that used it before, but
a token that the Hub may know is asked about, as often as `unknown_tokens` lets a client ask.

A caller who is known, and whom the limits turn away, has the same budget of lines: those are counted by
`caller_name` instead of a client's address.

Counted per process: two proxies refuse twice as much, and each writes of its own.
"""

from collections.abc import Callable
from typing import Final

from hubgate.proxy.http.client_address import group
from hubgate.wire.bounded_map import BoundedMap

WINDOW: Final = 60.0  # seconds
MAX_CLIENTS: Final = 100_000  # that are remembered; some 30 MB
SHARED_FACTOR: Final = 40  # all clients together write at most this many times the lines that one may
MAX_NAMED: Final = 1000  # clients of which one report tells apart; the rest are one sum
OTHERS: Final = "(others)"


def caller_name(sub: str, user: str) -> str:
    """What a caller is counted by; no address looks like it."""
    return f"{sub} {user}"


def read_caller(name: str) -> tuple[str, str]:
    """`sub` and user of a `caller_name`."""
    sub, _, user = name.partition(" ")
    return sub, user


class _Window:
    """What became of one client's requests, from the first refusal on."""

    def __init__(self, ends: float) -> None:
        self.ends = ends
        self.refused = 0
        self.lines = 0


class Refusals:
    """Counts them per client, in windows of a minute that begin with a first one."""

    def __init__(self, per_minute: int, clock: Callable[[], float]) -> None:
        self._per_minute = per_minute
        self._clock = clock
        self._windows: BoundedMap[str, _Window] = BoundedMap(MAX_CLIENTS)
        self._shared = _Window(0.0)  # of the lines of all clients
        self._unwritten: dict[str, int] = {}  # refusals without a line, since the last report

    def replace(self, per_minute: int) -> None:
        """Measure by another number from the next request on."""
        self._per_minute = per_minute

    def wait(self, client: str) -> float:
        """Seconds until this client's refusals are heard again; 0 while the budget lasts."""
        window = self._windows.get(group(client))
        if window is None or window.refused < self._per_minute:
            return 0.0
        return max(0.0, window.ends - self._clock())

    def count(self, client: str) -> None:
        """Count one refusal that is the client's own doing."""
        self._window(group(client)).refused += 1

    def takes_line(self, client: str) -> bool:
        """Whether the audit gets a line about this one; if not, it is counted for the next report."""
        name = group(client)
        window, shared = self._window(name), self._turned(self._shared)
        most = self._per_minute
        if window.refused > most or window.lines >= most or shared.lines >= most * SHARED_FACTOR:
            self._owe(name)
            return False
        window.lines += 1
        shared.lines += 1
        return True

    def leave_out(self) -> None:
        """Count one without a line for the next report, without telling whose it is."""
        self._owe(OTHERS)

    def report(self) -> dict[str, int]:
        """How many had no line since the last report, by client."""
        told, self._unwritten = self._unwritten, {}
        return told

    def _owe(self, name: str) -> None:
        unwritten = self._unwritten
        if name not in unwritten and len(unwritten) >= MAX_NAMED:
            name = OTHERS
        unwritten[name] = unwritten.get(name, 0) + 1

    def _window(self, name: str) -> _Window:
        window = self._windows.get(name)
        if window is not None:
            self._windows.move_to_end(name)
            return self._turned(window)
        window = _Window(self._clock() + WINDOW)
        self._windows.put(name, window)
        return window

    def _turned(self, window: _Window) -> _Window:
        """The window itself; begun anew if its minute is over."""
        now = self._clock()
        if now >= window.ends:
            window.ends = now + WINDOW
            window.refused = window.lines = 0
        return window
