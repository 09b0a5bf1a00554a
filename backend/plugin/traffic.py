"""What an engine is doing for whom: requests in flight for each model, and which are let in."""

from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec

from hubgate.wire.control_api import EngineQueue

USERS = 16  # of one model, at least as many are known

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class ModelUse(msgspec.Struct, frozen=True, kw_only=True):
    """`idle` is seconds since its last request ended; 0 while one is in flight.

    `users` has the same for each who used it lately, by pseudonym; empty where that is not counted.
    """

    in_flight: int
    idle: float
    users: dict[str, float] = {}


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """`GET /hubgate/status`. Models that were never asked for are absent."""

    draining: bool
    in_flight: int  # requests, and adapters that are put in or taken out
    sent: int = 0  # parts of answers that left since it started: it moves while callers are answered
    models: dict[str, ModelUse]
    queue: EngineQueue = EngineQueue()
    tasks: tuple[str, ...] = ()  # what the model can do, see vllm/tasks.py; empty where it was not asked


@dataclass(slots=True)
class _User:
    in_flight: int
    last: float


@dataclass(slots=True)
class _Count:
    in_flight: int
    last: float
    users: dict[str, _User] = field(default_factory=dict)

    def user(self, caller: str) -> _User:
        """Who uses it. Of more than `USERS`, those are forgotten now and then that were idle for longest."""
        user = self.users.get(caller)
        if user is None:
            if len(self.users) >= 2 * USERS:
                idlest = sorted(self.users, key=lambda one: self.users[one].last)
                idle = [one for one in idlest if not self.users[one].in_flight]
                for one in idle[:USERS]:
                    del self.users[one]
            user = self.users[caller] = _User(0, 0)
        return user


class Traffic:
    """Counts on the event loop of the API server, which is the only one to touch it."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._counts: dict[str, _Count] = {}
        self._refused: set[str] = set()
        self._sent = 0
        self._orders = 0
        self.draining = False  # nothing new is let in, until the engine ends or was woken up

    def admits(self, model: str) -> bool:
        """Whether a new request for this model may come in."""
        return not self.draining and model not in self._refused

    @contextmanager
    def request(self, model: str, caller: str = "") -> Iterator[None]:
        """One request, from its headers to the last byte of its answer; the caller's pseudonym, if known."""
        count = self._counts.setdefault(model, _Count(0, 0))
        user = count.user(caller) if caller else _User(0, 0)
        count.in_flight += 1
        user.in_flight += 1
        try:
            yield
        finally:
            count.in_flight -= 1
            user.in_flight -= 1
            count.last = user.last = self._clock()

    @contextmanager
    def order(self) -> Iterator[None]:
        """An adapter is put in or taken out: the engine is busy with it, and may hang over it."""
        self._orders += 1
        try:
            yield
        finally:
            self._orders -= 1

    def counting(self, send: Send) -> Send:
        """The same `send` (ASGI), with each part of the answer counted once it has left."""

        async def counted(message: MutableMapping[str, Any]) -> None:
            await send(message)
            self._sent += 1

        return counted

    def touch(self, model: str) -> None:
        """The model was put in: from now on it is idle, until somebody uses it."""
        self._counts.setdefault(model, _Count(0, 0)).last = self._clock()

    def in_flight(self, model: str) -> int:
        count = self._counts.get(model)
        return count.in_flight if count else 0

    @contextmanager
    def refusing(self, model: str) -> Iterator[None]:
        """Let no new request for this model in meanwhile."""
        self._refused.add(model)
        try:
            yield
        finally:
            self._refused.discard(model)

    def forget(self, model: str) -> None:
        """The model is gone; its count goes too, or names would pile up."""
        self._counts.pop(model, None)

    def status(self) -> Status:
        now = self._clock()
        models = {
            name: ModelUse(
                in_flight=count.in_flight,
                idle=0 if count.in_flight else now - count.last,
                users={
                    caller: 0 if user.in_flight else now - user.last for caller, user in count.users.items()
                },
            )
            for name, count in self._counts.items()
        }
        total = self._orders + sum(count.in_flight for count in self._counts.values())
        return Status(draining=self.draining, in_flight=total, sent=self._sent, models=models)
