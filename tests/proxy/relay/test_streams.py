"""Streams: the engine's bytes as they come, and an end that cannot be mistaken."""

import asyncio
import json
import socket

import openai
import pytest

from hubgate.proxy.http.caller_connection import CallerConnection as Caller
from tests.fakes.answers import DONE, Stream, chunk, completion, dies, head, raw, silent, whole
from tests.fakes.engine import LOCAL, Connection, Received
from tests.fakes.raw import RawAnswer, RawClient, request
from tests.fakes.running_proxy import ALICE, BASE, CHAT, MESSAGES, Edge
from tests.proxy.conftest import StartEdge

BODY = json.dumps({"model": BASE, "messages": MESSAGES, "stream": True}).encode()
SENT = request("POST", CHAT, [("Authorization", f"Bearer {ALICE}")], BODY)
SSE = [("Content-Type", "text/event-stream"), ("Transfer-Encoding", "chunked")]


async def test_the_bytes_are_the_engines(edge: Edge) -> None:
    """What the caller reads is what the engine wrote, to the last byte, and it is complete."""
    stream = Stream(count=50, usage=True).finish()
    edge.engine.then(stream)
    answer = await edge.chat(stream=True)
    assert answer.complete
    assert answer.body == bytes(stream.sent)
    assert answer.body.endswith(DONE)
    assert answer.header("Content-Type") == "text/event-stream; charset=utf-8"
    assert (answer.header("X-Accel-Buffering"), answer.header("Cache-Control")) == ("no", "no-cache")


async def test_a_plain_answer_says_nothing_of_buffers(edge: Edge) -> None:
    """What comes in one piece may be held back on its way."""
    answer = await edge.chat()
    assert (answer.header("X-Accel-Buffering"), answer.header("Cache-Control")) == (None, None)


async def test_events_come_one_by_one(edge: Edge) -> None:
    """An event reaches the caller before the engine writes the next."""
    stream = Stream(count=5)
    edge.engine.then(stream)
    async with RawClient.connect(edge.port) as client:
        await client.send(SENT)
        for index in range(5):
            stream.step()
            seen = await client.until(b'"finish_reason":null}]}\n\n')
            assert f"t{index}".encode() in seen
        stream.step()
        assert await client.until(b"0\r\n\r\n")


async def test_the_sdk_reads_a_stream(edge: Edge) -> None:
    """The unmodified SDK gets each event, and the usage at the end is counted."""
    edge.engine.then(Stream(count=3, usage=True).finish())
    stream = await edge.sdk().chat.completions.create(
        model=BASE, messages=[{"role": "user", "content": "x"}], stream=True
    )
    text = [event.choices[0].delta.content async for event in stream]
    assert text == ["t0", "t1", "t2", "t0"]
    (record,) = await edge.records(1)
    assert (record["stream"], record["prompt_tokens"], record["completion_tokens"]) == (True, 3, 3)
    assert await edge.metric("hubgate_tokens_total", kind="completion") == 3


async def broken(edge: Edge, stream: object) -> RawAnswer:
    """The answer to a stream that the engine does not end."""
    edge.engine.then(stream)  # type: ignore[arg-type]
    answer = await edge.chat(stream=True)
    assert answer.status == 200
    assert not answer.complete
    assert not answer.raw.endswith(b"0\r\n\r\n")
    assert DONE not in answer.body
    return answer


@pytest.mark.parametrize("events", [1, 2, 20])
async def test_a_cut_stream_never_looks_complete(edge: Edge, events: int) -> None:
    """When the engine dies there is an error event after its last one, and the final chunk never comes."""
    stream = Stream(count=30, die_after=events).finish()
    answer = await broken(edge, stream)
    assert answer.body.startswith(bytes(stream.sent))
    told = answer.body.removeprefix(bytes(stream.sent))
    assert told.startswith(b"\n\ndata: {")
    assert json.loads(told.strip().removeprefix(b"data: "))["error"]["code"] == "upstream_error"
    (record,) = await edge.records(1)
    assert (record["status"], record["reason"]) == (200, "upstream_error")
    assert record["bytes_out"] == len(answer.body)
    assert await edge.metric("hubgate_requests_total", status="200", code="upstream_error") == 1


async def test_half_an_event_is_ended_before_the_error(edge: Edge) -> None:
    """An error event stands on lines of its own also where the engine died within an event."""
    answer = await broken(edge, raw(head(200, SSE) + chunk(b'data: {"cho'), close=True))
    last = answer.body.split(b"\n\n")[-2]
    assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "upstream_error"


async def test_the_sdk_notices_a_cut_stream(edge: Edge) -> None:
    """The SDK raises the error of the event; no caller takes half an answer for a whole one."""
    edge.engine.then(Stream(count=3, die_after=1).finish())
    stream = await edge.sdk().chat.completions.create(
        model=BASE, messages=[{"role": "user", "content": "x"}], stream=True
    )
    with pytest.raises(openai.APIError, match="failed to answer"):
        async for _ in stream:
            pass


async def test_an_engine_that_goes_silent(start_edge: StartEdge) -> None:
    """A stream in which nothing comes for too long ends with an error event."""
    edge = await start_edge({"timeouts": {"idle": 0.05}})
    stream = Stream(count=3)
    stream.step()
    answer = await broken(edge, stream)
    assert b'"upstream_timeout"' in answer.body
    await edge.engine.until(lambda: not edge.engine.connections)


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (dies(), "upstream_error"),
        (raw(head(200, SSE), close=True), "upstream_error"),
        (raw(whole(200, b"")[:-10], close=True), "upstream_error"),
        (raw(head(200, [("Content-Length", "10")]), close=True), "upstream_error"),
    ],
)
async def test_death_before_the_first_byte_is_an_error(edge: Edge, answer: object, code: str) -> None:
    """As long as the caller has seen nothing, the answer is a proper 502, and there is no second try."""
    edge.engine.then(answer)  # type: ignore[arg-type]
    found = await edge.chat(stream=True)
    assert (found.status, found.code, found.complete) == (502, code, True)
    assert len(edge.engine.requests) == 1


@pytest.mark.parametrize("settings", [{"first_byte": 0.05}, {"idle": 0.05}])
async def test_no_first_byte_in_time(start_edge: StartEdge, settings: dict[str, float]) -> None:
    """An engine that does not begin in time is 504, and its request is ended."""
    edge = await start_edge({"timeouts": settings})
    edge.engine.always(silent() if "first_byte" in settings else raw(head(200, SSE)))
    answer = await edge.chat()
    assert (answer.status, answer.code) == (504, "upstream_timeout")
    await edge.engine.until(lambda: not edge.engine.connections)


async def test_a_plain_answer_that_is_cut(edge: Edge) -> None:
    """A JSON answer that breaks off is shorter than its length, and no error is glued to it."""
    edge.engine.then(
        raw(head(200, [("Content-Length", "100"), ("Content-Type", "application/json")]) + b'{"a')
    )
    edge.engine.then(completion())
    async with RawClient.connect(edge.port) as client:
        await client.send(SENT)
        assert (await client.until(b'{"a')).endswith(b'{"a')
        for connection in edge.engine.connections:
            connection.close()
        assert await client.rest() == b""


@pytest.mark.parametrize("when", ["before the first byte", "in the stream", "between events"])
async def test_the_caller_leaving_ends_the_generation(edge: Edge, when: str) -> None:
    """When the caller hangs up the engine's connection is closed, whatever came so far."""
    stream = Stream(count=100)
    edge.engine.then(silent() if when == "before the first byte" else stream)
    async with RawClient.connect(edge.port) as client:
        await client.send(SENT)
        await edge.engine.received(1)
        if when != "before the first byte":
            stream.step(3)
            await client.until(b"t2")
        client.leave()
    if when == "in the stream":
        stream.step(50)
    await edge.engine.until(lambda: not edge.engine.connections)
    (record,) = await edge.records(1)
    assert (record["status"], record["reason"], record["decision"]) == (499, "client_left", "granted")
    assert await edge.metric("hubgate_in_flight_requests") == 0
    assert (await edge.chat()).status == 200


ASKED: dict[str, dict[str, object]] = {
    CHAT: {"messages": MESSAGES},
    "/v1/completions": {"prompt": "x"},
    "/v1/responses": {"input": "x"},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 9},
}


async def responds(edge: Edge, path: str, *pieces: bytes) -> dict[str, object]:
    """Have a caller leave as soon as all these pieces of a stream came, whose framing never ends.

    Gives the audit's record.
    """

    async def answer(_: Received, connection: Connection) -> None:
        connection.send(head(200, SSE))
        for piece in pieces:
            connection.send(chunk(piece))
            await asyncio.sleep(0)  # mostly a read of its own at the proxy
        await connection.left.wait()

    edge.engine.then(answer)
    sent = json.dumps({"model": BASE, "stream": True, **ASKED[path]}).encode()
    async with RawClient.connect(edge.port) as client:
        await client.send(request("POST", path, [("Authorization", f"Bearer {ALICE}")], sent))
        await client.until(pieces[-1][-6:])
        client.leave()
    await edge.engine.until(lambda: not edge.engine.connections)
    return (await edge.records(1, "request.done"))[-1]


DELTA = b'data: {"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":null}]}\n\n'
USED = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\n'
STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
RESPONSE = (
    b'{"type":"response.completed","response":{"output":"%s","usage":{"input_tokens":3,"output_tokens":2}}}'
)
COMPLETED = b"event: response.completed\ndata: " + RESPONSE % (b"x" * 100) + b"\n\n"


@pytest.mark.parametrize(
    ("path", "pieces"),
    [
        (CHAT, [DELTA, USED, DONE]),
        (CHAT, [DELTA + USED + DONE]),
        (CHAT, [DELTA, DONE[:8], DONE[8:]]),
        (CHAT, [DELTA + DONE[:8], DONE[8:]]),
        ("/v1/completions", [DELTA, DONE]),
        ("/v1/messages", [STOP]),
        ("/v1/messages", [STOP[:30], STOP[30:]]),
        ("/v1/responses", [COMPLETED]),
        ("/v1/responses", [COMPLETED[:90], COMPLETED[90:]]),
        ("/v1/responses", [b'event: response.failed\ndata: {"type":"response.failed"}\n\n']),
    ],
)
async def test_who_leaves_after_the_last_event_had_it_all(edge: Edge, path: str, pieces: list[bytes]) -> None:
    """Clients hang up as soon as they have read the end: the request is `ok`, whatever of the framing."""
    record = await responds(edge, path, *pieces)
    assert (record["status"], record["reason"]) == (200, "ok")
    labels = {"endpoint": path, "status": "200", "code": "ok"}
    assert await edge.metric("hubgate_requests_total", **labels) == 1


@pytest.mark.parametrize("pieces", [[DELTA], [USED, DELTA], [DELTA, DONE + DELTA]])
async def test_who_leaves_before_the_last_event_left(edge: Edge, pieces: list[bytes]) -> None:
    """What has the look of an end in the middle of a stream is none."""
    record = await responds(edge, CHAT, *pieces)
    assert (record["status"], record["reason"]) == (499, "client_left")


async def test_leaving_gives_the_place_back(start_edge: StartEdge) -> None:
    """A caller who left does not use up their own limit."""
    edge = await start_edge({"limits": {"concurrent_requests": 1}})
    edge.engine.then(silent())
    async with RawClient.connect(edge.port) as client:
        await client.send(SENT)
        await edge.engine.received(1)
        assert (await edge.chat()).code == "rate_limit_exceeded"
        client.leave()
    await edge.records(2)
    assert (await edge.chat()).status == 200


async def test_many_streams_do_not_mix(edge: Edge) -> None:
    """Fifty streams at once each get their own engine's bytes."""
    streams = [Stream(count=number % 7 + 1) for number in range(50)]
    edge.engine.then(*streams)
    asking = [asyncio.create_task(edge.chat(stream=True)) for _ in streams]
    await edge.engine.received(50)
    for stream in streams:
        stream.finish()
    answers = await asyncio.gather(*asking)
    assert sorted(answer.body for answer in answers) == sorted(bytes(stream.sent) for stream in streams)


async def test_row_39_a_slow_reader_holds_the_engine(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a caller does not read stays with the engine: the proxy holds less than 1 MiB of it."""
    callers: list[Caller] = []
    made = Caller.connection_made

    def remembered(caller: Caller, transport: asyncio.BaseTransport) -> None:
        callers.append(caller)
        made(caller, transport)

    monkeypatch.setattr(Caller, "connection_made", remembered)
    events = 512  # of 128 KiB each: far more than all socket buffers on the way
    event = b"data: " + b"x" * (128 * 1024) + b"\n\n"
    data = chunk(event)
    sending: list[Connection] = []

    async def vast(_: Received, connection: Connection) -> None:
        sending.append(connection)
        connection.send(head(200, SSE))
        for _number in range(events):
            connection.send(data)
        connection.send(chunk(b""))

    edge.engine.then(vast)
    loop = asyncio.get_running_loop()
    with socket.create_connection((LOCAL, edge.port)) as caller:
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        caller.settimeout(0)
        await loop.sock_sendall(caller, SENT)
        await edge.engine.received(1)
        held = -1
        while sending[0].unsent != held:  # it stops where nobody takes any more
            held = sending[0].unsent
            for _ in range(20):
                await edge.admin("/livez")
        assert held > len(data) * events // 2
        here = caller.getsockname()[1]
        (connection,) = [found for found in callers if found.port == here]
        assert connection._transport.get_write_buffer_size() < 1024 * 1024
        seen = 0
        while more := await loop.sock_recv(caller, 1 << 20):
            seen += len(more)
            if sending[0].unsent == 0 and more.endswith(b"0\r\n\r\n"):
                break
    assert seen > len(event) * events  # with the chunks that they came in
