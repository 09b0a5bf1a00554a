"""Idle connections to engines: they cost no request, and no request runs twice because of them."""

import asyncio
import random
from functools import partial
from unittest.mock import patch

from hubgate.proxy import app
from hubgate.proxy.upstream.connection_pool import ConnectionPool
from tests.fakes.answers import completion, misdirected
from tests.fakes.engine import Connection, RawEngine, Received
from tests.fakes.raw import RawAnswer
from tests.fakes.running_proxy import Edge, eventually
from tests.proxy.conftest import StartEdge

REQUESTS = 2_000
AT_ONCE = 4
ENGINE_KEEPS = 0.5  # seconds at least, for uvicorn's 5
WE_KEEP = 0.1  # for 4: further below, since a busy machine closes late and early by some hundredths


class Forgetful:
    """Closes a connection that was idle for a short random time, as uvicorn does after five seconds."""

    def __init__(self) -> None:
        self.closed = 0
        self._random = random.Random(7)  # noqa: S311 - the same in every run
        self._answer = completion()
        self._served: dict[Connection, int] = {}

    async def __call__(self, received: Received, connection: Connection) -> None:
        served = self._served[connection] = self._served.get(connection, 0) + 1
        await self._answer(received, connection)
        after = ENGINE_KEEPS * (1 + self._random.random())
        asyncio.get_running_loop().call_later(after, self._look, connection, served)

    def _look(self, connection: Connection, served: int) -> None:
        if self._served[connection] == served and not connection.left.is_set():
            self.closed += 1
            connection.close()


async def test_2000_requests_with_pauses(start_edge: StartEdge) -> None:
    """An engine that closes what is idle costs nobody an answer, whatever pauses the callers make."""
    with patch.object(app, "ConnectionPool", partial(ConnectionPool, keepalive=WE_KEEP)):
        edge = await start_edge({"limits": {"requests_per_minute": 1_000_000}})
    forgetful = Forgetful()
    edge.engine.always(forgetful)
    rng = random.Random(11)  # noqa: S311 - the same in every run

    async def caller(count: int) -> list[int]:
        found = []
        for _ in range(count):
            found.append((await edge.chat()).status)
            if rng.random() < 0.02:
                await asyncio.sleep(rng.choice([WE_KEEP * 0.9, WE_KEEP * 1.1, ENGINE_KEEPS * 1.1]))
        return found

    for _ in range(2):
        found = await asyncio.gather(*[caller(REQUESTS // 2 // AT_ONCE) for _ in range(AT_ONCE)])
        assert [status for statuses in found for status in statuses] == [200] * (REQUESTS // 2)
        # A pause in which the engine closes whatever is left, before more is asked.
        await edge.engine.until(lambda: not edge.engine.connections)
    assert len(edge.engine.requests) == REQUESTS
    assert forgetful.closed >= 2


async def used(edge: Edge) -> Connection:
    """The one connection to the engine, idle after a good answer."""
    assert (await edge.chat()).status == 200
    (connection,) = edge.engine.connections
    return connection


async def test_row_42_a_reused_connection_that_dies(edge: Edge) -> None:
    """The engine closes just when it gets the next request: it may have run, so it is 502 and not sent again.

    RFC 9110, section 9.2.2: no automatic retry of what is not idempotent.
    """
    connection = await used(edge)

    async def closes(_: Received, found: Connection) -> None:
        assert found is connection
        found.close()

    edge.engine.then(closes)
    answer = await edge.chat()
    assert (answer.status, answer.code, answer.complete) == (502, "upstream_error", True)
    assert len(edge.engine.requests) == 2
    assert edge.backend.asked == []
    assert (await edge.chat()).status == 200
    assert len(edge.engine.requests) == 3


async def test_row_42_a_connection_that_dies_as_the_request_is_sent(edge: Edge) -> None:
    """Whichever is first, the end or the request, it runs at most once and is answered or 502."""
    outcomes: set[int] = set()
    for number in range(60):
        connection = await used(edge)
        before = len(edge.engine.requests)
        asking = asyncio.create_task(edge.chat())
        for _ in range(number % 20):
            await asyncio.sleep(0)
        connection.reset() if number % 2 else connection.close()
        answer: RawAnswer = await asking
        outcomes.add(answer.status)
        assert answer.status in (200, 502)
        assert len(edge.engine.requests) - before <= 1
        for left in tuple(edge.engine.connections):
            left.close()
        await edge.engine.until(lambda: not edge.engine.connections)
    assert 200 in outcomes
    assert edge.backend.asked == []


async def test_an_engine_that_closed_is_forgotten(edge: Edge) -> None:
    """A connection that ended while it was idle is not used: the next request gets another, and no 502."""
    for _ in range(5):
        connection = await used(edge)
        connection.close()
        await edge.engine.until(lambda: not edge.engine.connections)
    assert len(edge.engine.requests) == 5


async def test_row_42_two_stale_engines(start_edge: StartEdge) -> None:
    """Two engines of one base that both refuse are asked once each, and the caller is told."""
    edge = await start_edge(backends=("gpu-0", "gpu-1"))
    for backend in edge.backends:
        backend.hosted[0].engine.always(misdirected())
    answer = await edge.chat()
    assert (answer.status, answer.code) == (503, "model_loading")
    assert sum(len(engine.requests) for engine in edge.engines) == 2


async def test_row_42_two_stale_engines_of_one_backend(edge: Edge) -> None:
    """Where both engines that are known to hold a base turn out not to, one more try is all there is."""
    async with RawEngine.start() as second:
        base = edge.backend.hosted[0].base
        edge.backend.host(second, base, id="gpu-0-engine-2")
        await edge.backend.greeted(2)
        for engine in (edge.engine, second):
            engine.always(misdirected())
        answer = await edge.chat()
        assert (answer.status, answer.code) == (503, "model_loading")
        assert len(edge.engine.requests) + len(second.requests) == 2
        await edge.engine.down()
        second.always(completion())

        async def served() -> bool:
            return (await edge.chat()).status == 200

        edge.backend.hosted.pop(0)
        await edge.backend.greeted(2)
        await eventually(served)
