"""What a stream is told that waits at an engine's gate, and what one is not that does not."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec
import pytest

from hubgate.wire.control_api import GRANT_HEADER, SHARE_USED, Places, PlacesRequest
from hubgate.wire.endpoints import PLACES
from tests.fakes.answers import DONE, Stream, chunk, head, raw, whole
from tests.fakes.engine import Answer, Connection, Received
from tests.fakes.raw import RawClient, request
from tests.fakes.running_proxy import ALICE, BASE, CHAT, MESSAGES, Edge
from tests.proxy.conftest import StartEdge

SOON = {"cold_start": {"heartbeat_after": 0.02}}
BODY = json.dumps({"model": BASE, "messages": MESSAGES, "stream": True}).encode()
FIRST = b": hubgate waiting for demo/tiny-llama, number 1 in line\n\n"


class Gate:
    """An engine's: holds what it is asked, and tells places."""

    def __init__(self, edge: Edge) -> None:
        self.edge = edge
        self.asked: list[PlacesRequest] = []
        self.held: list[Received] = []
        self.place: Callable[[], int] = lambda: 1
        self.answer: Answer = Stream(count=3).finish()
        self.open = asyncio.Event()
        edge.engine.always(self)

    async def __call__(self, received: Received, connection: Connection) -> None:
        if received.target == PLACES:
            assert received.header(GRANT_HEADER)
            self.asked.append(msgspec.json.decode(received.body, type=PlacesRequest))
            places = tuple(self.place() for _ in self.asked[-1].requests)
            connection.send(whole(200, msgspec.json.encode(Places(places=places))))
            return
        self.held.append(received)
        await self.open.wait()
        await self.answer(received, connection)

    async def until_asked(self, times: int) -> None:
        await self.edge.engine.until(lambda: len(self.asked) >= times)


@asynccontextmanager
async def streaming(edge: Edge, count: int = 1) -> AsyncIterator[list[RawClient]]:
    """So many callers' streams, each sent."""
    sent = request("POST", CHAT, [("Authorization", f"Bearer {ALICE}")], BODY)
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(RawClient.connect(edge.port)) for _ in range(count)]
        for client in clients:
            await client.send(sent)
        yield clients


def answered(*headers: tuple[str, str]) -> Answer:
    """A stream of one event, whole."""
    streamed = [("Content-Type", "text/event-stream"), ("Transfer-Encoding", "chunked"), *headers]
    return raw(head(200, streamed), chunk(DONE) + chunk(b""))


@pytest.fixture
async def gate(start_edge: StartEdge) -> Gate:
    edge = await start_edge(SOON)
    edge.backend.hosted[0].tells_places = True
    await edge.backend.greeted(2)
    return Gate(edge)


async def test_a_stream_is_told_its_place_and_then_answered(gate: Gate) -> None:
    """Its wait is in Server-Timing as of the first beat, and as a whole in the metrics and the trail."""
    gate.answer = answered(("X-Hubgate-Waited", "2.5"))
    async with streaming(gate.edge) as (client,):
        seen = await client.until(FIRST)
        assert b"HTTP/1.1 200 OK" in seen
        assert b"queue;dur=" in seen
        gate.place = lambda: 2  # somebody with less came
        await client.until(b"number 2 in line\n\n")
        gate.open.set()
        rest = await client.until(b"\r\n0\r\n\r\n")
    assert DONE in rest
    assert b"HTTP/1.1" not in rest
    (record,) = await gate.edge.records(1, "request.done")
    assert (record["status"], record["reason"], record["seconds"]["queue"]) == (200, "ok", 2.5)
    assert await gate.edge.metric("hubgate_queue_seconds_count") == 1


async def test_a_stream_that_does_not_wait_is_told_nothing(gate: Gate) -> None:
    """It is computed: what becomes of it has a status of its own, and the gate is not asked again."""
    gate.place = lambda: 0
    gate.answer = raw(whole(400, b'{"error":{"message":"too long"}}'))
    async with streaming(gate.edge) as (client,):
        await gate.until_asked(1)
        await asyncio.sleep(0.1)  # sweeps, which no event marks
        gate.open.set()
        answer = await client.answer()
    assert (answer.status, len(gate.asked)) == (400, 1)


async def test_a_refusal_after_a_beat_is_an_event(gate: Gate) -> None:
    """The caller's share is used and they waited for long enough: the status was sent by then."""
    used = json.dumps({"error": {"message": "others wait", "code": SHARE_USED}}).encode()
    gate.answer = raw(whole(429, used))
    async with streaming(gate.edge) as (client,):
        await client.until(FIRST)
        gate.open.set()
        rest = await client.rest()
    assert b'"code":"rate_limit_exceeded"' in rest
    assert not rest.endswith(b"0\r\n\r\n")


async def test_the_gate_is_asked_once_for_all(gate: Gate) -> None:
    """Each by its caller and id."""
    gate.answer = answered()
    async with streaming(gate.edge, 5) as clients:
        for client in clients:
            await client.until(FIRST)
        ids = {received.header("x-request-id") for received in gate.held}
        assert any({one for _, one in asked.requests} == ids for asked in gate.asked)
        gate.open.set()
        for client in clients:
            assert DONE in await client.until(b"\r\n0\r\n\r\n")


async def test_who_leaves_is_asked_for_no_more(gate: Gate) -> None:
    """Nothing is kept of them."""
    async with streaming(gate.edge) as (client,):
        await client.until(FIRST)
    (record,) = await gate.edge.records(1, "request.done")
    assert record["reason"] == "client_left"
    asked = len(gate.asked)
    await asyncio.sleep(0.1)  # sweeps, which no event marks
    assert len(gate.asked) == asked


@pytest.mark.parametrize(
    "told",
    [whole(404, b"{}"), whole(200, b'{"places":[]}'), whole(200, b"[" * 999), whole(200, b'{"places":[-1]}')],
)
async def test_an_engine_that_does_not_tell_is_waited_for(gate: Gate, told: bytes) -> None:
    """As before: without a beat, and the answer is the engine's."""

    async def answer(received: Received, connection: Connection) -> None:
        if received.target == PLACES:
            connection.send(told)
            gate.asked.append(PlacesRequest(requests=()))
        else:
            await Gate.__call__(gate, received, connection)

    gate.edge.engine.always(answer)
    async with streaming(gate.edge) as (client,):
        await gate.until_asked(2)
        gate.open.set()
        seen = await client.until(b"\r\n0\r\n\r\n")
    assert b": hubgate waiting" not in seen


async def test_an_older_engine_is_not_asked(start_edge: StartEdge) -> None:
    """It would not know the question."""
    edge = await start_edge(SOON)
    gate = Gate(edge)
    async with streaming(edge) as (client,):
        await edge.engine.received(1)
        await asyncio.sleep(0.1)  # sweeps, which no event marks
        gate.open.set()
        assert b": hubgate waiting" not in await client.until(b"\r\n0\r\n\r\n")
    assert gate.asked == []


async def test_a_plain_request_is_told_nothing(gate: Gate) -> None:
    """Its answer is one JSON."""
    gate.answer = raw(whole(200, b"{}"))
    asking = asyncio.create_task(gate.edge.chat(BASE))
    await gate.edge.engine.received(1)
    await asyncio.sleep(0.1)  # sweeps, which no event marks
    gate.open.set()
    assert (await asking).status == 200
    assert gate.asked == []
