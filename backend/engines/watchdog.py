"""Tells an engine that hangs from one that is merely busy.

Busy is what makes progress: bytes of answers that left the gate, or tokens that vLLM counted. Only
when there was neither for a whole `hang_timeout`, while requests are in flight or an adapter is on its
way in or out, is it asked for one token; if that does not come either, it hangs. An idle engine is not
asked: its next request is.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

from hubgate.backend.engines.client import EngineError
from hubgate.backend.metrics import progress
from hubgate.backend.plugin.traffic import Status

LONGEST = 15.0  # seconds between two looks, at most

Mark = tuple[int, float]


class Watched(Protocol):
    """What is asked of an engine: see `hubgate.backend.engines.client.EngineClient`."""

    async def status(self) -> Status: ...
    async def metrics(self) -> str: ...
    async def generate(self, model: str, timeout: float) -> None: ...


async def until_hung(client: Watched, model: str, timeout: float, clock: Callable[[], float]) -> None:
    """Return when the engine is found to hang; `timeout` in seconds."""
    last: Mark | None = None
    since = clock()
    while True:
        await asyncio.sleep(min(LONGEST, timeout / 4))
        mark = await _mark(client, last)
        if mark is None or mark != last:
            last, since = mark, clock()
        elif clock() - since >= timeout:
            if not await _answers(client, model, timeout) and await _mark(client, last) == last:
                return
            since = clock()


async def _mark(client: Watched, last: Mark | None) -> Mark | None:
    """How far it is; `None` if it has nothing to do. What does not answer makes no progress."""
    try:
        status = await client.status()
        if not status.in_flight:
            return None
        return status.sent, progress(await client.metrics())
    except EngineError:
        return last or (0, 0.0)


async def _answers(client: Watched, model: str, timeout: float) -> bool:
    try:
        await client.generate(model, timeout)
    except EngineError:
        return False
    return True
