"""Recordings on their way: limits, slow and broken ends, and what is held of them."""

import asyncio

import pytest

from hubgate.proxy.http.request import WINDOW, ServerRequest
from hubgate.proxy.upstream import engine_connection as engines
from tests.fakes.answers import chunk, head, misdirected, raw, refusal, silent, whole
from tests.fakes.engine import CONTINUE, Connection, Received
from tests.fakes.forms import (
    AUTH,
    FORM,
    GOOD,
    MODEL,
    SOUND,
    SPEECH,
    begun,
    fields,
    form,
    head_of,
    recording,
    send,
    transcribed,
)
from tests.fakes.raw import RawClient, request
from tests.fakes.running_proxy import BASE, Edge
from tests.proxy.conftest import StartEdge


async def test_the_limit_by_length(start_edge: StartEdge) -> None:
    """A form whose length is over the limit is not read at all."""
    edge = await start_edge({"request": {"max_body_bytes": 1000}})
    async with RawClient.connect(edge.port) as client:
        await client.send(head_of(("Content-Length", "1001")))
        answer = await client.answer()
    assert (answer.status, answer.code) == (413, "request_too_large")
    assert edge.engine.wire == b""


async def test_the_limit_on_the_way(start_edge: StartEdge) -> None:
    """A form that turns out too long is cut: 413 to the caller, and no end of it to the engine."""
    edge = await start_edge({"request": {"max_body_bytes": 200_000}})
    async with RawClient.connect(edge.port) as client:
        await client.send(head_of(("Transfer-Encoding", "chunked")))
        for piece in [begun(b""), *[b"x" * 50_000] * 4]:
            await client.send(chunk(piece))
        answer = await client.answer()
    assert (answer.status, answer.code) == (413, "request_too_large")
    await edge.engine.until(lambda: not edge.engine.connections)
    assert edge.engine.requests == []


@pytest.mark.parametrize("cut", [30, 400])
async def test_a_stalled_form(start_edge: StartEdge, cut: int) -> None:
    """A form that stalls, in its fields or in its file, is given up."""
    edge = await start_edge({"timeouts": {"body_idle": 0.05}})
    body = form(MODEL, recording(b"x" * 1000))
    async with RawClient.connect(edge.port) as client:
        await client.send(head_of(("Content-Length", str(len(body)))) + body[:cut])
        answer = await client.answer()
    assert (answer.status, answer.code) == (408, "request_timeout")
    await edge.engine.until(lambda: not edge.engine.connections)
    assert edge.engine.requests == []


async def test_a_caller_who_leaves_in_the_file(edge: Edge) -> None:
    """The engine's connection is closed, and the audit tells who left."""
    async with RawClient.connect(edge.port) as client:
        await client.send(head_of(("Content-Length", "9999")) + begun())
        await edge.engine.until(lambda: len(edge.engine.connections) == 1)
        client.leave()
        await edge.engine.until(lambda: not edge.engine.connections)
    assert edge.engine.requests == []
    (record,) = await edge.records(1)
    assert (record["status"], record["reason"]) == (499, "client_left")


async def test_a_caller_who_waits_for_leave(edge: Edge) -> None:
    """`Expect: 100-continue` is met."""
    edge.engine.always(transcribed())
    async with RawClient.connect(edge.port) as client:
        await client.send(head_of(("Content-Length", str(len(GOOD))), ("Expect", "100-continue")))
        assert await client.until(b"\r\n\r\n") == CONTINUE
        await client.send(GOOD)
        assert (await client.answer()).status == 200


async def test_a_connection_serves_many_forms(edge: Edge) -> None:
    """A form that was read to its end leaves both connections in use."""
    edge.engine.always(transcribed())
    async with RawClient.connect(edge.port) as client:
        for _ in range(3):
            await client.send(request("POST", SPEECH, [AUTH, FORM], GOOD))
            assert (await client.answer()).status == 200
    assert len(edge.engine.requests) == 3
    assert len(edge.engine.connections) == 1


class Held:
    """Watches what the proxy holds of a body: unread by it, and not yet taken by the engine."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.unread = self.unsent = 0
        self.stuck = asyncio.Event()  # the engine takes nothing, and nothing more is read
        choked = set[engines.EngineConnection]()
        feed, pause = ServerRequest.feed, engines.EngineConnection.pause_writing

        def fed(request: ServerRequest, data: bytes) -> None:
            feed(request, data)
            self.unread = max(self.unread, request._held)
            for engine in choked:
                self.unsent = max(self.unsent, engine._transport.get_write_buffer_size())
            if choked and request._held >= WINDOW:
                self.stuck.set()

        def paused(connection: engines.EngineConnection) -> None:
            pause(connection)
            choked.add(connection)

        patch.setattr(ServerRequest, "feed", fed)
        patch.setattr(engines.EngineConnection, "pause_writing", paused)


@pytest.mark.inside
async def test_a_large_file_is_held_by_nobody(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that does not read stops the caller; when it reads, all 30 MB arrive, a window at a time."""
    size, piece = 30_000_000, b"x" * 50_000
    held = Held(monkeypatch)
    reading: asyncio.Queue[Connection] = asyncio.Queue()
    edge.engine.eager = True

    async def slow(_: Received, connection: Connection) -> None:
        connection.send(CONTINUE)
        connection.hold()
        reading.put_nowait(connection)

    edge.engine.then(slow)
    before, after = begun(b""), b"\r\n" + form()
    length = ("Content-Length", str(len(before) + size + len(after)))
    sent = 0
    async with RawClient.connect(edge.port) as client, asyncio.TaskGroup() as group:
        await client.send(head_of(length) + before)

        async def upload() -> None:
            nonlocal sent
            for _ in range(size // len(piece)):
                await client.send(piece)
                sent += len(piece)
            await client.send(after)

        group.create_task(upload())
        connection = await reading.get()
        await held.stuck.wait()
        assert sent < size
        connection.go_on()
        await edge.engine.until(lambda: edge.engine.wire.endswith(b"\r\n0\r\n\r\n"))
        connection.send(whole(200, b'{"text":"x"}'))
        assert (await client.answer()).status == 200
    assert edge.engine.wire.count(b"x" * 1000) > size // 1200
    assert held.unread == WINDOW
    assert 0 < held.unsent <= 4 * WINDOW


async def test_a_refusal_of_the_gate_costs_nothing(edge: Edge) -> None:
    """The engine's 421 comes before any of the body was sent: it goes to the engine that is loaded next."""
    edge.engine.eager = True

    async def refuses(received: Received, connection: Connection) -> None:
        edge.engine.eager = False
        await misdirected()(received, connection)

    edge.engine.then(refuses)
    edge.engine.always(transcribed())
    answer = await send(edge, GOOD)
    assert answer.status == 200
    first, second = edge.engine.requests
    assert first.body == b""
    assert fields(second) == [("model", edge.at(BASE).encode()), ("file", SOUND)]


async def test_a_refusal_after_the_body_began(edge: Edge) -> None:
    """What was sent is gone and may have run: no other engine gets it, and the caller is to send it again."""
    edge.engine.always(misdirected())
    answer = await send(edge, GOOD)
    assert (answer.status, answer.code, answer.header("Retry-After")) == (503, "model_loading", "1")
    assert len(edge.engine.requests) == 1


async def test_an_answer_before_the_end_of_the_file(edge: Edge) -> None:
    """An engine that refuses in the middle is relayed at once; the rest is not sent on."""
    edge.engine.eager = True

    async def refuses(received: Received, connection: Connection) -> None:
        connection.send(CONTINUE)
        await refusal(400, "no sound in it")(received, connection)

    edge.engine.then(refuses)
    async with RawClient.connect(edge.port) as client:
        await client.send(head_of(("Content-Length", "99999")) + begun())
        answer = await client.answer()
        assert (answer.status, answer.json()["error"]["message"]) == (400, "no sound in it")
        assert answer.header("Connection") == "close"
    await edge.engine.until(lambda: not edge.engine.connections)


async def test_an_engine_that_dies_in_the_file(edge: Edge) -> None:
    """502, and no second try."""
    edge.engine.eager = True
    edge.engine.always(raw(CONTINUE, close=True))
    async with RawClient.connect(edge.port) as client:
        await client.send(head_of(("Content-Length", "99999")) + begun())
        answer = await client.answer()
    assert (answer.status, answer.code) == (502, "upstream_error")
    assert len(edge.engine.requests) == 1


async def test_an_engine_that_takes_nothing(start_edge: StartEdge) -> None:
    """An engine that neither reads nor answers is given up after `first_byte`."""
    edge = await start_edge({"timeouts": {"first_byte": 0.2}})
    edge.engine.always(silent())
    answer = await send(edge, GOOD)
    assert (answer.status, answer.code) == (504, "upstream_timeout")


async def test_an_engine_that_streams_early(edge: Edge) -> None:
    """An answer may begin before the file ends; the rest of the file still arrives."""
    edge.engine.eager = True
    started = asyncio.Event()

    async def early(_: Received, connection: Connection) -> None:
        connection.send(
            CONTINUE + head(200, [("Content-Type", "text/event-stream"), ("Content-Length", "16")])
        )
        connection.send(b"data: 1\n")
        started.set()
        await edge.engine.until(lambda: edge.engine.wire.endswith(b"0\r\n\r\n"))
        connection.send(b"data: 2\n")

    edge.engine.then(early)
    async with RawClient.connect(edge.port) as client:
        await client.send(head_of(("Content-Length", str(len(GOOD)))) + GOOD[:-30])
        await started.wait()
        seen = await client.until(b"data: 1\n")
        await client.send(GOOD[-30:])
        assert await client.until(b"data: 2\n") == b"data: 2\n"
    assert seen.startswith(b"HTTP/1.1 200")
