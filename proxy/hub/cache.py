"""A bounded cache of what the Hub said, with one question in flight per key."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Hashable
from typing import Final, Generic, Literal, TypeVar

from hubgate.wire.bounded_map import BoundedMap

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")
Source = Literal["cache", "hub"]

JITTER: Final = 0.1  # a life is shortened by up to this share, so that entries do not expire together
REFRESH: Final = 0.8  # share of a life after which a hit asks anew, ahead of expiry


class _Entry(Generic[Value]):
    def __init__(self, value: Value, refresh_at: float, expires_at: float) -> None:
        self.value = value
        self.refresh_at = refresh_at
        self.expires_at = expires_at


def _always(_: object) -> bool:
    return True


class Cache(Generic[Key, Value]):
    """Maps keys to values that live for `ttl(value)` seconds, counted from when they were asked for.

    A value with a ttl of 0 is handed to whoever waits for it and kept for nobody; it does not push
    out an older value that is still good. Hence an outage is never remembered as an answer.
    """

    def __init__(
        self,
        *,
        capacity: int,
        ttl: Callable[[Value], float],
        clock: Callable[[], float],
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._ttl = ttl
        self._clock = clock
        self._chance = chance
        self._entries: BoundedMap[Key, _Entry[Value]] = BoundedMap(capacity)
        self._flights: dict[Key, asyncio.Task[Value]] = {}

    def fresh(self, key: Key) -> Value | None:
        """The value, if it is there and not yet to be asked for anew; `get` it otherwise.

        It is what nearly every request finds, and no coroutine is made for it.
        """
        entry = self._entries.get(key)
        if entry is None or self._clock() >= entry.refresh_at:
            return None
        self._entries.move_to_end(key)
        return entry.value

    async def get(
        self,
        key: Key,
        fetch: Callable[[], Awaitable[Value]],
        *,
        shareable: Callable[[Value], bool] = _always,
    ) -> tuple[Value, Source]:
        """Give the value, asking with `fetch` if there is none that is still good.

        Whoever comes while a question is in flight waits for its answer; one that is not
        `shareable` belongs to the caller who asked, and the others ask for themselves.
        The question goes on when its first caller leaves.
        """
        now = self._clock()
        entry = self._entries.get(key)
        if entry is not None and now < entry.expires_at:
            self._entries.move_to_end(key)
            if now >= entry.refresh_at and key not in self._flights:
                self._ask(key, fetch)
            return entry.value, "cache"
        while True:
            flight = self._flights.get(key)
            mine = flight is None
            if flight is None:
                flight = self._ask(key, fetch)
            value = await asyncio.shield(flight)
            if mine or shareable(value):
                return value, "hub"

    def forget(self, key: Key) -> None:
        """Drop a value; an answer that is still in flight will not be kept either."""
        self._entries.pop(key, None)
        self._flights.pop(key, None)

    def clear(self) -> None:
        """Drop everything, answers in flight included."""
        self._entries.clear()
        self._flights.clear()

    def __len__(self) -> int:
        return len(self._entries)

    def _ask(self, key: Key, fetch: Callable[[], Awaitable[Value]]) -> asyncio.Task[Value]:
        flight = asyncio.ensure_future(self._fly(key, fetch))
        self._flights[key] = flight
        flight.add_done_callback(_retrieve)
        return flight

    async def _fly(self, key: Key, fetch: Callable[[], Awaitable[Value]]) -> Value:
        me = asyncio.current_task()
        started = self._clock()
        try:
            value = await fetch()
            if self._flights.get(key) is me:
                self._keep(key, value, started)
            return value
        finally:
            if self._flights.get(key) is me:
                del self._flights[key]

    def _keep(self, key: Key, value: Value, started: float) -> None:
        life = self._ttl(value) * (1 - JITTER * self._chance())
        if life <= 0:
            return
        self._entries.put(key, _Entry(value, started + life * REFRESH, started + life))


def _retrieve(flight: "asyncio.Task[Value]") -> None:
    # A question asked ahead of time has nobody waiting; its fault is then seen by the next asker.
    if not flight.cancelled():
        flight.exception()
