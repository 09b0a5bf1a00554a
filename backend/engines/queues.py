"""How long the queue of each engine is, asked for once a second: for hello, and for metrics."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

from hubgate.backend.engines.client import EngineError
from hubgate.backend.engines.engine import Engine

PAUSE: Final = 1.0  # seconds; proxies ask for a hello as often
PATIENCE: Final = 2.0  # seconds


async def watch_queues(engines: Callable[[], Iterable[Engine]]) -> None:
    """Forever: keep `Engine.queue` fresh of those that answer."""
    while True:
        await asyncio.gather(*[_look(engine) for engine in engines()])
        await asyncio.sleep(PAUSE)


async def _look(engine: Engine) -> None:
    if engine.state not in ("ready", "draining"):
        engine.queue = None
        return
    try:
        async with asyncio.timeout(PATIENCE):  # the others are asked together with it
            engine.queue = (await engine.client.status()).queue
    except (EngineError, TimeoutError):  # busy, or about to be found dead: what was known says nothing now
        engine.queue = None
