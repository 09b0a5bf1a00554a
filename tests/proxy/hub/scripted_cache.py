"""A cache on a clock of the test's own, and questions that are answered when told to."""

import asyncio
from collections.abc import Awaitable, Callable

from hubgate.proxy.hub.cache import Cache
from tests.fakes.clock import Clock

TTL = 100.0


class Hub:
    """Answers questions when told to; each answer is the number of the question unless given."""

    def __init__(self) -> None:
        self.asked = 0
        self._gates: list[asyncio.Future[object]] = []

    async def __call__(self) -> object:
        self.asked += 1
        gate: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self._gates.append(gate)
        return await gate

    def answer(self, value: object = None) -> None:
        """Answer the oldest open question."""
        gate = self._gates.pop(0)
        if isinstance(value, Exception):
            gate.set_exception(value)
        else:
            gate.set_result(self.asked if value is None else value)


async def now(value: object) -> object:
    """An answer at once."""
    return value


def at_once(value: object) -> Callable[[], Awaitable[object]]:
    return lambda: now(value)


async def turn() -> None:
    """Let every task go as far as it can."""
    for _ in range(5):
        await asyncio.sleep(0)


def cache(clock: Clock, *, capacity: int = 10, chance: float = 0.0) -> Cache[str, object]:
    """Answers live for `TTL`, `0` not at all, `short` for a tenth."""

    def life(value: object) -> float:
        return {"outage": 0.0, "short": TTL / 10}.get(str(value), TTL)

    return Cache(capacity=capacity, ttl=life, clock=clock, chance=lambda: chance)
