"""Sees what of a proxy is left behind: connections on both sides, whoever still refers to them, and tasks."""

import asyncio
import gc
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from unittest.mock import patch

from proxy import app
from proxy.http import connection as callers
from proxy.upstream import connections as engines


@dataclass(slots=True)
class Watch:
    """All connections of the proxies that are started inside `watching`.

    Those that are referred to are more than those that are open: a timer or a task that was left behind
    keeps its connection, and so does a traceback, until the garbage is collected.
    """

    open: set[callers.Connection] = field(default_factory=set)
    engaged: set[engines.Connection] = field(default_factory=set)  # open to engines
    pools: list[engines.Connections] = field(default_factory=list)

    @property
    def idle(self) -> set[engines.Connection]:
        """Those of the engines' that are open and wait for a request."""
        return {one for pool in self.pools for idle in pool._idle.values() for one in idle}

    def left(self) -> tuple[int, int, int]:
        """Callers' connections that are open; those that are referred to; engines' that are, and not idle."""
        if self.open:
            return len(self.open), len(self.open), len(self.engaged - self.idle)
        gc.collect()
        referred = sum(type(thing) is callers.Connection for thing in gc.get_objects())
        return 0, referred, len(self.engaged - self.idle)


@contextmanager
def watching() -> Iterator[Watch]:
    """Watch the proxies that are started in here."""
    watch = Watch()
    made, lost = engines.Connection.connection_made, engines.Connection.connection_lost
    opened, closed = callers.Connection.connection_made, callers.Connection.connection_lost

    def called(connection: callers.Connection, transport: asyncio.BaseTransport) -> None:
        watch.open.add(connection)
        opened(connection, transport)

    def left(connection: callers.Connection, exc: Exception | None) -> None:
        watch.open.discard(connection)
        closed(connection, exc)

    def pool(connect_timeout: float) -> engines.Connections:
        watch.pools.append(engines.Connections(connect_timeout))
        return watch.pools[-1]

    def connected(connection: engines.Connection, transport: asyncio.BaseTransport) -> None:
        watch.engaged.add(connection)
        made(connection, transport)

    def ended(connection: engines.Connection, exc: Exception | None) -> None:
        watch.engaged.discard(connection)
        lost(connection, exc)

    # What the loop calls by name can be replaced in what is compiled as well.
    with (
        patch.object(callers.Connection, "connection_made", called),
        patch.object(callers.Connection, "connection_lost", left),
        patch.object(app, "Connections", pool),
        patch.object(engines.Connection, "connection_made", connected),
        patch.object(engines.Connection, "connection_lost", ended),
    ):
        yield watch


def tasks() -> Counter[str]:
    """What runs now, by the names of the coroutines; the fake engine's connections are not counted."""
    names = (getattr(task.get_coro(), "__qualname__", "") for task in asyncio.all_tasks())
    return Counter(name for name in names if name != "Connection._serve")
