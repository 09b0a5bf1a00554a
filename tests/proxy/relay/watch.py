"""Sees what of a proxy is left behind: connections on both sides, whoever still refers to them, and tasks."""

import asyncio
import gc
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from unittest.mock import patch
from weakref import WeakSet

from proxy import app
from proxy.http import connection as callers
from proxy.http.server import Server
from proxy.upstream import connections as engines


@dataclass(slots=True)
class Watch:
    """All connections of the proxies that are started inside `watching`.

    Those that are referred to are more than those that are open: a timer or a task that was left behind
    keeps its connection, and so does a traceback, until the garbage is collected.
    """

    open: set[callers.Connection] = field(default_factory=set)
    seen: "WeakSet[callers.Connection]" = field(default_factory=WeakSet)
    taken: "WeakSet[engines.Connection]" = field(default_factory=WeakSet)
    idle: "WeakSet[engines.Connection]" = field(default_factory=WeakSet)

    def left(self) -> tuple[int, int, int]:
        """Callers' connections that are open; those that are referred to; engines' that are, and not idle."""
        if self.seen and not self.open:
            gc.collect()
        return len(self.open), len(self.seen), len(set(self.taken) - set(self.idle))


@contextmanager
def watching() -> Iterator[Watch]:
    """Watch the proxies that are started in here."""
    watch = Watch()

    class Watched(Server):
        def opened(self, connection: callers.Connection) -> None:
            super().opened(connection)
            watch.open.add(connection)
            watch.seen.add(connection)

        def closed(self, connection: callers.Connection) -> None:
            super().closed(connection)
            watch.open.discard(connection)

    class Pool(engines.Connections):
        async def take(self, address: engines.Address) -> engines.Connection:
            connection = await super().take(address)
            watch.taken.add(connection)
            watch.idle.discard(connection)
            return connection

        def give_back(self, connection: engines.Connection) -> None:
            super().give_back(connection)
            watch.idle.add(connection)

        def lost(self, connection: engines.Connection) -> None:
            super().lost(connection)
            watch.idle.discard(connection)

    with patch.object(app, "Server", Watched), patch.object(app, "Connections", Pool):
        yield watch


def tasks() -> Counter[str]:
    """What runs now, by the names of the coroutines; the fake engine's connections are not counted."""
    names = (getattr(task.get_coro(), "__qualname__", "") for task in asyncio.all_tasks())
    return Counter(name for name in names if name != "Connection._serve")
