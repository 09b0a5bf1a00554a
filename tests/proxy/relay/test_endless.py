"""Answers that do not end, and times that count against the right one of the two sides."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from hubgate.proxy.http.request import WINDOW, ServerRequest
from tests.fakes.answers import Stream, chunk, event, head, silent
from tests.fakes.engine import Connection, Received
from tests.fakes.raw import RawClient
from tests.fakes.running_proxy import eventually
from tests.proxy.conftest import StartEdge
from tests.proxy.relay.slow import LARGE, post, small, small_socket
from tests.proxy.relay.watch import watching

SSE = [("Content-Type", "text/event-stream"), ("Transfer-Encoding", "chunked")]
DELTA = chunk(event({"choices": [{"index": 0, "delta": {"content": "hi"}}]}))


def goes_on(start: bytes, piece: bytes) -> Callable[[Received, Connection], Awaitable[None]]:
    """An engine that says something again and again."""

    async def answer(_: Received, connection: Connection) -> None:
        connection.send(start)
        while not connection.left.is_set():
            connection.send(piece)
            await asyncio.sleep(0.01)

    return answer


PLAIN = head(200, [("Content-Type", "application/json"), ("Content-Length", "100000")])


@pytest.mark.parametrize("streaming", [False, True])
async def test_row_50_an_answer_that_never_ends_is_ended(start_edge: StartEdge, *, streaming: bool) -> None:
    """After `timeouts.answer` the engine's request is aborted; the caller sees that it is not complete."""
    edge = await start_edge({"timeouts": {"answer": 0.2}})
    edge.engine.then(goes_on(head(200, SSE), DELTA) if streaming else goes_on(PLAIN, b" "))
    async with RawClient.connect(edge.port) as client:
        await client.send(post(stream=streaming))
        answer = await client.answer()
        assert (answer.status, answer.complete) == (200, False)
        assert (b"upstream_timeout" in answer.body) is streaming
        assert await client.rest() == b""
    await edge.engine.until(lambda: not edge.engine.connections)
    (record,) = await edge.records(1)
    assert (record["status"], record["reason"]) == (200, "upstream_timeout")
    assert (await edge.chat()).status == 200


async def test_row_50_an_answer_that_never_begins_is_ended(start_edge: StartEdge) -> None:
    """`timeouts.answer` goes before `first_byte` if it is less; the caller is told."""
    edge = await start_edge({"timeouts": {"answer": 0.1}})
    edge.engine.then(silent())
    answer = await edge.chat()
    assert (answer.status, answer.code) == (504, "upstream_timeout")
    await edge.engine.until(lambda: not edge.engine.connections)


@pytest.mark.inside
async def test_the_time_of_a_caller_is_not_the_engines(start_edge: StartEdge) -> None:
    """Who reads nothing for longer than an engine may be silent, and then goes on, gets the whole answer."""
    idle = 0.3
    resumed = asyncio.Event()

    async def answer(_: Received, connection: Connection) -> None:
        connection.send(head(200, SSE) + chunk(b"x" * 20 * LARGE))
        await resumed.wait()
        await asyncio.sleep(idle / 2)  # its own time begins only now
        connection.send(chunk(b"y") + chunk(b""))

    with small(stalled=60):
        edge = await start_edge({"timeouts": {"idle": idle}})
        edge.engine.then(answer)
        async with small_socket(edge) as caller:
            await asyncio.get_running_loop().sock_sendall(caller, post(stream=True))
            await edge.engine.received(1)
            await asyncio.sleep(2 * idle)  # nothing marks that the engine would have been late
            client = RawClient(*await asyncio.open_connection(sock=caller))
            reading = asyncio.create_task(client.answer())
            (engine,) = edge.engine.connections

            async def taken() -> bool:
                return not engine.unsent

            await eventually(taken)
            resumed.set()
            got = await reading
            assert (got.complete, len(got.body), got.body[-1:]) == (True, 20 * LARGE + 1, b"y")
            client.leave()


@pytest.mark.inside
@pytest.mark.parametrize("paused", [False, True])
async def test_the_time_of_an_engine_is_not_the_callers(start_edge: StartEdge, *, paused: bool) -> None:
    """Who takes all that there is, also after a pause, may wait for more of it for as long as they like."""
    stalled, more = 0.2, asyncio.Event()

    async def answer(_: Received, connection: Connection) -> None:
        connection.send(head(200, SSE) + chunk(b"x" * (20 * LARGE if paused else 1)))
        await more.wait()
        connection.send(chunk(b"y") + chunk(b""))

    with watching() as watch, small(stalled):
        edge = await start_edge({"timeouts": {"least_rate": 1e9}})
        edge.engine.then(answer)
        async with small_socket(edge) as caller:
            await asyncio.get_running_loop().sock_sendall(caller, post(stream=True))
            await edge.engine.received(1)

            async def full() -> bool:
                return any(connection._write_paused for connection in watch.open)

            if paused:
                await eventually(full)
            client = RawClient(*await asyncio.open_connection(sock=caller))
            reading = asyncio.create_task(client.answer())
            await asyncio.sleep(3 * stalled)  # nothing marks that they would have been left
            more.set()
            assert (await reading).complete
            client.leave()
    (record,) = await edge.records(1)
    assert (record["status"], record["reason"]) == (200, "ok")


@pytest.mark.inside
async def test_large_requests_behind_one_another_are_all_answered(start_edge: StartEdge) -> None:
    """What is not read for now, since enough of it is kept already, is read when there is room again."""
    edge = await start_edge()
    stream = Stream()
    edge.engine.then(stream)
    count = 40
    async with RawClient.connect(edge.port) as client, asyncio.TaskGroup() as group:
        group.create_task(client.send(post(stream=True) + post(user="x" * 60_000) * count))
        await edge.engine.received(1)
        stream.finish()
        for _ in range(count + 1):
            assert (await client.answer()).status == 200
    assert len(edge.engine.requests) == count + 1


@pytest.mark.inside
@pytest.mark.parametrize("missing", [-1, 0, 1, 50, 200])
async def test_a_body_that_is_too_much_to_wait_is_read_on(start_edge: StartEdge, missing: int) -> None:
    """It filled what may wait behind an answer, or nearly; the rest of it is taken when it is its turn."""
    stream = Stream()
    sent = post(user="x" * 2 * WINDOW)
    part = sent.index(b"\r\n\r\n") + 4 + WINDOW - missing
    with watching() as watch:
        edge = await start_edge()
        edge.engine.then(stream)
        async with RawClient.connect(edge.port) as client:
            await client.send(post(stream=True) + sent[:part])
            (connection,) = watch.open

            async def waits() -> bool:
                return sum(one.kept for one in connection._waiting if isinstance(one, ServerRequest)) >= (
                    WINDOW - max(0, missing)
                )

            await eventually(waits)
            stream.finish()
            assert (await client.answer()).status == 200
            await client.send(sent[part:])
            assert (await client.answer()).status == 200
