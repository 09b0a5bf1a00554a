"""Where requests wait for their share of an engine, before anything of their bodies is looked at."""

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, Final, Literal

from hubgate.backend.plugin.shares.fair_order import FairOrder
from hubgate.backend.plugin.shares.place import WEIGHT, Place
from hubgate.backend.plugin.shares.running import Running
from hubgate.wire.control_api import EngineQueue
from hubgate.wire.cost import Cost
from hubgate.wire.seal import Grant

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]

# In tokens of a prompt. A token that is made counts twice one that is read, as in Sheng et al.
MADE: Final = 2
LEAST: Final = 16  # of any request, which the API process parses, checks and answers
GUESSED: Final = 64  # tokens of an answer, until it is known how many were made
BYTES_A_TOKEN: Final = 4  # of a prompt in English, roughly

BEYOND: Final = 2  # requests that may wait within vLLM for the next seat, of callers below their share
KEPT: Final = 2  # seats for those, where there are many: they need not wait for a stream to end
OF_SEATS: Final = 32  # one seat in so many is kept, at most: alone, a caller hardly misses it

HELD: Final = 64 * 1024 * 1024  # bytes of waiting requests' bodies, all together
LONGEST: Final = 600.0  # seconds; a proxy that says nothing waits as long for a first byte
LEARNED: Final = 8  # requests that were let in after a wait, before anybody is refused for what is expected
MAX_RETRY_AFTER: Final = 120

Ended = Literal["in", "left", "late", "gone"]


class Refusal:
    """Why a request is not let in."""

    def __init__(self, why: Literal["left", "late", "gone"], retry_after: int = 0) -> None:
        """`gone`: this engine lets nobody in for its model any more. `retry_after` is in seconds."""
        self.why = why
        self.retry_after = retry_after


class _Use:
    """What a request that is in uses, see `hubgate.backend.plugin.shares.running.Watcher`."""

    __slots__ = ("_by_priority", "_order", "_per_token", "_place")

    def __init__(self, order: FairOrder, place: Place, *, per_token: int, by_priority: bool) -> None:
        self._order = order
        self._place = place
        self._per_token = per_token
        self._by_priority = by_priority

    def tokens(self, read: int, made: int) -> None:
        self._order.spend(self._place, read + made * self._per_token)

    def sequences(self, count: int) -> None:
        if count != self._place.seats:
            self._order.hold(self._place, count)

    def priority(self, number: int) -> int | None:
        """By how many seats its caller had before it, over their weight: vLLM takes the lowest first."""
        place = self._place
        return (place.before + number) * WEIGHT // place.weight if self._by_priority else None


class _Waiter:
    def __init__(self, model: str, request_id: str, ended: "asyncio.Future[Ended]") -> None:
        self.model = model
        self.request_id = request_id
        self._ended = ended

    def end(self, how: Ended) -> None:
        if not self._ended.done():
            self._ended.set_result(how)


class Gate:
    """The seats of this engine, on the event loop of its API server, which is the only one to touch it."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """Closed, until it is opened."""
        self._clock = clock
        self._order = FairOrder(0, 0, 0)
        self._seats = 0
        self._context = 0
        self._waiters: dict[Place, _Waiter] = {}
        self._held = 0
        self._pace = 0.0  # seconds between two who are let in after a wait, as of late
        self._learned = 0
        self._last = 0.0
        self._by_priority = False

    def open(self, *, seats: int, adapters: int, context: int, by_priority: bool) -> None:
        """Let requests in, for as many sequences and adapters as vLLM runs at once.

        `context` is the most tokens of one; `by_priority` whether vLLM hears of a request's priority.
        """
        kept = min(KEPT, seats // OF_SEATS)
        self._order = FairOrder(seats - kept, kept + BEYOND, adapters)
        self._seats, self._context, self._by_priority = seats, context, by_priority

    def place(self, grant: Grant, adapter: str | None, cost: Cost, size: int) -> Place:
        """That of a new request, with so many bytes of body; it has to `enter`."""
        prompt = min(size // BYTES_A_TOKEN, self._context * cost.sequences)
        answers = cost.sequences * GUESSED * MADE * cost.per_token
        return Place(
            grant.sub,
            weight=grant.weight,
            adapter=adapter,
            seats=cost.sequences,
            cost=LEAST + prompt + answers,
            spent=LEAST,
        )

    def enter(self, place: Place) -> bool:
        """Whether it is in at once; otherwise it is to `wait`. In any case it has to `leave`."""
        return self._order.enter(place)

    def leave(self, place: Place) -> None:
        """It has ended, or does not wait any longer. It may be said twice."""
        self._order.leave(place)

    def running(self, place: Place, cost: Cost) -> Running:
        """One that is in: its caller is charged for its tokens, and its seats are those that it needs."""
        per_token = MADE * cost.per_token
        watcher = _Use(self._order, place, per_token=per_token, by_priority=self._by_priority)
        return Running(watcher, cost.sequences)

    async def gather(self, receive: Receive) -> Receive | None:
        """Take a body that comes as its caller sends it, as far as there is room; `None` if they leave.

        So an upload holds no seat, however slow it is.
        """
        arriving = _Arriving(self, receive)
        try:
            await arriving.until_whole()
        finally:
            self._held -= arriving.size
        return None if arriving.left else arriving.replayed

    async def wait(
        self, place: Place, model: str, receive: Receive, patience: float, request_id: str = ""
    ) -> Receive | Refusal:
        """Wait to be let in, for `patience` seconds; gives what reads the request from then on.

        By its `request_id` its caller's proxy may ask meanwhile which place it has. Its body is taken, as
        far as there is room: behind it comes the end of the connection.
        """
        place.since = now = self._clock()
        if self._order.waiting == 1:
            self._last = now
        # What is expected is a guess: it is held against those who have others waiting.
        expected = self._expected(place)
        if self._learned >= LEARNED and expected > patience and self._order.waits(place) > 1:
            return Refusal("late", _retry(expected - patience))
        ended: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()
        waiter = self._waiters[place] = _Waiter(model, request_id, ended)
        place.on_let_in = self._telling(waiter)
        arriving = _Arriving(self, receive)
        watch = asyncio.create_task(arriving.until_left())
        try:
            await asyncio.wait((ended, watch), timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        finally:
            del self._waiters[place]
            watch.cancel()
            self._held -= arriving.size
        await asyncio.wait((watch,))  # it does not read on in the middle of what comes next
        if not watch.cancelled():
            watch.result()
        how: Ended = ended.result() if ended.done() else "left" if arriving.left else "late"
        if how == "in":
            return arriving.replayed
        return Refusal(how, _retry(self._expected(place)) if how == "late" else 0)

    def waited(self, place: Place) -> float:
        """Seconds, of one that has just been let in after a wait."""
        return max(0.0, self._clock() - place.since)

    def turn_away(self, model: str | None = None) -> None:
        """End the waiting of those for this model, or of all: this engine is not to answer them."""
        away = [place for place, waiter in self._waiters.items() if model is None or waiter.model == model]
        for place in away:
            self._waiters[place].end("gone")
        for place in away:  # which may let others of them in, who leave in their turn
            self._order.leave(place)

    def status(self) -> EngineQueue:
        """How long it is, for proxies and operators."""
        order, now = self._order, self._clock()
        longest = max((now - place.since for place in order.heads()), default=0.0)
        return EngineQueue(
            seats=self._seats, taken=order.taken, waiting=order.waiting, longest_wait=max(0.0, longest)
        )

    def places(self, requests: Iterable[tuple[str, str]]) -> tuple[int, ...]:
        """The places of requests, each given by its caller and its id; 0 for one that does not wait."""
        if not self._waiters:
            return tuple(0 for _ in requests)
        positions = self._order.positions()
        waiting = {
            (place.sub, waiter.request_id): positions.get(place, 0) for place, waiter in self._waiters.items()
        }
        return tuple(waiting.get(request, 0) for request in requests)

    def make_room(self, size: int) -> bool:
        """Whether so many more bytes may be held for those who wait."""
        if self._held + size > HELD:
            return False
        self._held += size
        return True

    def _expected(self, place: Place) -> float:
        """Seconds until the last waiting one of its caller's is let in, at the pace of late."""
        return self._order.ahead(place) * self._pace

    def _telling(self, waiter: _Waiter) -> Callable[[], None]:
        def let_in() -> None:
            now = self._clock()
            self._pace += (now - self._last - self._pace) / min(self._learned + 1, 4 * LEARNED)
            self._last = now
            self._learned += 1
            waiter.end("in")

        return let_in


class _Arriving:
    """What comes of a request while it waits."""

    def __init__(self, gate: Gate, receive: Receive) -> None:
        self.size = 0
        self.left = False
        self._gate = gate
        self._receive = receive
        self._messages: deque[Message] = deque()

    async def until_left(self) -> None:
        """Return when its sender has left. It is cancelled between two messages, never within one."""
        while await self._take():
            pass
        if not self.left:
            await asyncio.Event().wait()  # the rest stays where it is

    async def until_whole(self) -> None:
        """Return when all of the body is here, or as much as there is room for, or its sender has left."""
        while await self._take() and self._messages[-1].get("more_body", False):
            pass

    async def _take(self) -> bool:
        """The next message; whether there is more to take."""
        message = await self._receive()
        self._messages.append(message)
        if message["type"] != "http.request":
            self.left = True
            return False
        size = len(message.get("body", b""))
        if not self._gate.make_room(size):
            return False
        self.size += size
        return True

    async def replayed(self) -> Message:
        """`receive` (ASGI), from the beginning."""
        return self._messages.popleft() if self._messages else await self._receive()


def _retry(seconds: float) -> int:
    return max(1, min(MAX_RETRY_AFTER, math.ceil(seconds)))
