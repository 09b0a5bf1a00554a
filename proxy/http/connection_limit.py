"""How many callers' connections there may be, and which one goes where there are more.

The bound comes of the descriptors that the process may have open (RLIMIT_NOFILE): some are kept for files,
the Hub and the backends, and of the rest each connection may need a second one, to an engine. Where there are
descriptors in plenty, as in a container, `MOST` bounds what strangers can make the process hold. One client
(an IPv4 address, an IPv6 /64) holds at most a share. Where one more would be too many, the oldest of those
goes that never authenticated, one that waits for nothing before others; if all did, the new one goes.
"""

from collections import OrderedDict
from collections.abc import Callable
from itertools import islice
from typing import Final, Protocol

from hubgate.proxy.http.client_address import group

RESERVE: Final = 128  # descriptors: 64 for the Hub, the rest for files, backends, Redis and the admin port
MOST: Final = 20_000  # connections, whatever the descriptors: at 64 KiB of a stranger's each, 1.3 GB
SHARE: Final = 2  # one client has the bound divided by this
LOOKED_AT: Final = 16  # connections, from the oldest on, among which an idle one is looked for


class Held(Protocol):
    """What is known of a connection."""

    @property
    def peer(self) -> str: ...
    @property
    def idle(self) -> bool: ...
    def abort(self) -> None: ...


def most_connections(descriptors: int) -> int:
    """How many connections go with so many descriptors."""
    return min(MOST, max(1, (descriptors - min(RESERVE, descriptors // 2)) // 2))


class _Tally:
    """How many connections there are, and those of them that never authenticated, the oldest first."""

    def __init__(self) -> None:
        self.held = 0
        self.strangers: OrderedDict[Held, None] = OrderedDict()

    def oldest(self) -> Held | None:
        """The first to go."""
        for connection in islice(self.strangers, LOOKED_AT):
            if connection.idle:
                return connection
        return next(iter(self.strangers), None)


class ConnectionLimit:
    """Counts connections, and decides; it closes none."""

    def __init__(self, most: int, trusts: Callable[[str], bool]) -> None:
        """`trusts` says which peers are load balancers, for which there is no share."""
        self.most = most
        self.share = max(1, most // SHARE)
        self._trusts = trusts
        self._all = _Tally()
        self._clients: dict[str, _Tally] = {}  # those with a share

    def __len__(self) -> int:
        return self._all.held

    def opened(self, connection: Held) -> Held | None:
        """Count a new one; gives the one that has to go now, which may be itself, and counts that no more."""
        mine = self._of(connection)
        if mine is None and not self._trusts(connection.peer):
            mine = self._clients[group(connection.peer)] = _Tally()
        goes: Held | None = None
        for tally, most in ((mine, self.share), (self._all, self.most)):
            if tally is not None and goes is None and tally.held >= most:
                goes = tally.oldest() or connection
        for tally in (mine, self._all):
            if tally is not None:
                tally.held += 1
                tally.strangers[connection] = None
        if goes is not None:
            self.closed(goes, admitted=False)
        return goes

    def admitted(self, connection: Held) -> None:
        """It authenticated: from now on it stays."""
        for tally in (self._of(connection), self._all):
            if tally is not None:
                tally.strangers.pop(connection, None)

    def closed(self, connection: Held, *, admitted: bool) -> None:
        """Count it no more. One that had to go, and so is not counted any more, may be named once again."""
        if not admitted and connection not in self._all.strangers:
            return
        mine = self._of(connection)
        for tally in (mine, self._all):
            if tally is not None:
                tally.held -= 1
                tally.strangers.pop(connection, None)
        if mine is not None and not mine.held:
            del self._clients[group(connection.peer)]

    def _of(self, connection: Held) -> _Tally | None:
        return self._clients.get(group(connection.peer))
