"""Sees what of a proxy is left behind: connections on both sides, whoever still refers to them, and tasks."""

import asyncio
import gc
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

from hubgate.proxy import app
from hubgate.proxy.http import caller_connection as callers
from hubgate.proxy.upstream import engine_connection as engines
from hubgate.proxy.upstream.connection_pool import ConnectionPool


@dataclass(slots=True)
class Watch:
    """All connections of the proxies that are started inside `watching`.

    Those that are referred to are more than those that are open: a timer or a task that was left behind
    keeps its connection, and so does a traceback, until the garbage is collected.
    """

    open: set[callers.CallerConnection] = field(default_factory=set)
    engaged: set[engines.EngineConnection] = field(default_factory=set)  # open to engines
    pools: list[ConnectionPool] = field(default_factory=list)

    @property
    def idle(self) -> set[engines.EngineConnection]:
        """Those of the engines' that are open and wait for a request."""
        return {one for pool in self.pools for idle in pool._idle.values() for one in idle}

    def left(self) -> tuple[int, int, int]:
        """Callers' connections that are open; those that are referred to; engines' that are, and not idle."""
        if self.open:
            return len(self.open), len(self.open), len(self.engaged - self.idle)
        gc.collect()
        referred = sum(type(thing) is callers.CallerConnection for thing in gc.get_objects())
        return 0, referred, len(self.engaged - self.idle)


@contextmanager
def _kept(kind: Any, present: set[Any]) -> Iterator[None]:
    """Keep the connections of this kind in a set, from their beginning to their end."""
    made, lost = kind.connection_made, kind.connection_lost

    def begun(connection: Any, transport: asyncio.BaseTransport) -> None:
        present.add(connection)
        made(connection, transport)

    def ended(connection: Any, exc: Exception | None) -> None:
        present.discard(connection)
        lost(connection, exc)

    with patch.object(kind, "connection_made", begun), patch.object(kind, "connection_lost", ended):
        yield


@contextmanager
def _older_things_left_alone() -> Iterator[None]:
    """Let the garbage collector look at what is made in here: all else is a million things, and not ours."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextmanager
def watching() -> Iterator[Watch]:
    """Watch the proxies that are started in here."""
    watch = Watch()

    def pool(connect_timeout: float, **named: Any) -> ConnectionPool:
        watch.pools.append(
            ConnectionPool(connect_timeout, keepalive=60, **named)
        )  # a slow machine is no idle one
        return watch.pools[-1]

    # What the loop calls by name can be replaced in what is compiled as well.
    with (
        _older_things_left_alone(),
        patch.object(app, "ConnectionPool", pool),
        _kept(callers.CallerConnection, watch.open),
        _kept(engines.EngineConnection, watch.engaged),
    ):
        yield watch


def tasks() -> Counter[str]:
    """What runs now, by the names of the coroutines.

    Not counted are the connections of the fake engine, and those that aiohttp serves: of the Hub, the
    backends and the admin port, which their clients keep for seconds and then open anew.
    """
    names = (getattr(task.get_coro(), "__qualname__", "") for task in asyncio.all_tasks())
    return Counter(name for name in names if name not in {"Connection._serve", "RequestHandler.start"})
