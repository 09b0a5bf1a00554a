"""Tells streams that wait for their share of an engine that they do, and which place they have.

A stream whose engine has not begun to answer after some seconds may wait at the gate there, or be computed.
Which of them it is, and its place, only the gate knows: it is asked once a second at most, for all streams of
one engine together. Those that wait get a heartbeat, as those do that wait for a load; the others are left
alone, so that what becomes of them can still have a status of its own.

One sweep looks after all of them: a timer for each would cost a stream ten times as much.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from hubgate.proxy.context import RequestContext
from hubgate.proxy.http.request import ServerRequest
from hubgate.proxy.upstream.engine_connection import Address
from hubgate.proxy.upstream.heartbeat import beat
from hubgate.wire.control_api import MOST_PLACES, EngineInfo

INTERVAL: Final = 1.0  # seconds between two sweeps

# Asks an engine, given where it is, one of its models, and caller and id of each request; nothing: not told.
Ask = Callable[[Address, EngineInfo, str, Sequence[tuple[str, str]]], Awaitable[Sequence[int]]]


class _Stream:
    def __init__(
        self, context: RequestContext, name: tuple[str, str], address: Address, engine: EngineInfo, due: float
    ) -> None:
        self.context = context
        self.sub, self.model = name
        self.address = address
        self.engine = engine
        self.due = due
        self.sent = context.elapsed


class GateLine:
    """The streams whose engines have not begun to answer, in the order in which they are due."""

    def __init__(self, ask: Ask, after: float, clock: Callable[[], float]) -> None:
        """A first beat comes `after` seconds at the earliest, and then one each time they have passed."""
        self._ask = ask
        self._after = after
        self._clock = clock
        self._streams: dict[ServerRequest, _Stream] = {}

    def enter(
        self,
        context: RequestContext,
        request: ServerRequest,
        address: Address,
        engine: EngineInfo,
    ) -> "GateLine | None":
        """A request goes to this engine. If it is a stream and the engine tells places, it has to `leave`."""
        identity, access = context.identity, context.access
        if not context.stream or not engine.tells_places or identity is None or access is None:
            return None
        due = self._clock() + self._after
        self._streams[request] = _Stream(context, (identity.sub, access.model), address, engine, due)
        return self

    def leave(self, request: ServerRequest) -> None:
        """Its engine has begun to answer, or it has ended. It may be said twice."""
        self._streams.pop(request, None)

    async def run(self) -> None:
        """Sweep until cancelled."""
        while True:
            await asyncio.sleep(min(INTERVAL, self._after))
            await self.sweep()

    async def sweep(self) -> None:
        """Ask for those that are due, and tell who waits."""
        now = self._clock()
        engines: dict[Address, list[ServerRequest]] = {}
        for request, stream in self._streams.items():
            if stream.due > now:
                break
            engines.setdefault(stream.address, []).append(request)
        for due in engines.values():
            for first in range(0, len(due), MOST_PLACES):
                await self._tell(due[first : first + MOST_PLACES])

    async def _tell(self, requests: list[ServerRequest]) -> None:
        asked: list[tuple[ServerRequest, _Stream]] = []
        for request in requests:
            stream = self._streams.pop(request, None)
            if stream is not None:
                stream.due = self._clock() + self._after
                self._streams[request] = stream  # behind all others
                asked.append((request, stream))
        if not asked:
            return
        one = asked[0][1]
        names = [(stream.sub, stream.context.request_id) for _, stream in asked]
        places = await self._ask(one.address, one.engine, one.model, names)
        if len(places) != len(asked):
            return  # not told, this time
        for i in range(len(asked)):
            request, stream = asked[i]
            if self._streams.get(request) is not stream:
                continue  # it was answered meanwhile
            if not places[i]:
                del self._streams[request]  # it is in: nothing to wait for at the gate any more
                continue
            stream.context.queue_seconds = stream.context.elapsed - stream.sent  # for now
            beat(stream.context, request, comment(stream.model, places[i]))


def comment(model: str, place: int) -> bytes:
    """What is told of a place."""
    return f": hubgate waiting for {model.partition('@')[0]}, number {place} in line\n\n".encode()
