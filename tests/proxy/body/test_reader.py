"""Request bodies: read only when the caller is known, within limits, and never for ever."""

import asyncio
import json

import pytest

from hubgate.proxy.body.large_json import MAX_VALUES
from tests.cases import each
from tests.fakes.answers import chunk
from tests.fakes.raw import RawClient, request
from tests.fakes.running_proxy import ALICE, BASE, CHAT, Edge, eventually
from tests.proxy.conftest import StartEdge

BODY = json.dumps({"model": BASE, "messages": []}).encode()
AUTH = ("Authorization", f"Bearer {ALICE}")
CHUNKED = ("Transfer-Encoding", "chunked")


def sent(*headers: tuple[str, str], body: bytes = BODY) -> bytes:
    """A request of alice's with these headers."""
    return request("POST", CHAT, [AUTH, *headers], body)


async def test_chunked_bodies_are_read(edge: Edge) -> None:
    """A body in chunks, with extensions and trailers, is the same request; the trailers go nowhere."""
    pieces = chunk(BODY[:7]) + b"%x;ext=1\r\n%s\r\n" % (len(BODY) - 7, BODY[7:])
    async with RawClient.connect(edge.port) as client:
        await client.send(sent(CHUNKED, body=pieces + b"0\r\nX-Hubgate-Grant: theirs\r\n\r\n"))
        assert (await client.answer()).status == 200
    received = edge.engine.requests[0]
    assert received.header("content-length") == str(len(received.body))
    assert b"theirs" not in received.raw


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_over_the_limit(start_edge: StartEdge, *, chunked: bool) -> None:
    """A body that is too long is refused, by its length or as soon as it is longer, and goes nowhere."""
    edge = await start_edge({"request": {"max_body_bytes": 1000}})
    body = json.dumps({"model": BASE, "messages": [], "user": "x" * 1000}).encode()
    async with RawClient.connect(edge.port) as client:
        await client.send(sent(CHUNKED, body=chunk(body)) if chunked else sent(body=body))
        answer = await client.answer()
        assert (answer.status, answer.code) == (413, "request_too_large")
        assert answer.header("Connection") == "close"
    assert edge.engine.requests == []
    assert (await edge.chat()).status == 200


async def test_a_huge_length_is_refused_before_the_body(edge: Edge) -> None:
    """What is announced as too long is not waited for."""
    async with RawClient.connect(edge.port) as client:
        await client.send(request("POST", CHAT, [AUTH, ("Content-Length", "99999999999")], b""))
        assert (await client.answer()).code == "request_too_large"


@each("value", [b"-1,", b"[],", b'{"a":1},', b'"",'])
async def test_a_body_of_too_many_values(edge: Edge, value: bytes) -> None:
    """Fifty thousand values are enough; more are refused while they come, before they cost a parse."""
    body = b'{"model":"a/b","messages":[%b' % (value * (MAX_VALUES + 70_000))
    async with RawClient.connect(edge.port) as client:
        await client.send(sent(("Content-Length", str(len(body) + 100_000)), body=body))
        answer = await client.answer()
        assert (answer.status, answer.code) == (413, "request_too_large")
        assert b"values" in answer.raw
    assert edge.engine.requests == []


async def test_what_looks_like_values_in_a_text(edge: Edge) -> None:
    """In a long text anything may stand, as often as it likes, and all of it reaches the engine."""
    text = "if (a[i], b[j]) { f(x, y); } " * 300_000
    assert text.count(",") + text.count("[") > MAX_VALUES
    body = {"model": BASE, "messages": [{"role": "user", "content": text}]}
    assert (await edge.post(CHAT, body)).status == 200
    assert json.loads(edge.engine.requests[0].body)["messages"] == body["messages"]


IMAGE = "data:image/png;base64," + "iVBORw0KGgo/+AbC" * 200_000


@pytest.mark.parametrize("size", [0, 1000, 300_000])
async def test_a_large_body(edge: Edge, size: int) -> None:
    """An image of megabytes reaches the engine as it was sent, with a length, however it came."""
    part = {"type": "image_url", "image_url": {"url": IMAGE}}
    body = {"model": BASE, "messages": [{"role": "user", "content": [part, {"type": "text", "text": "é"}]}]}
    raw = json.dumps(body).encode()
    chunks = [chunk(raw[start : start + size]) for start in range(0, len(raw), size)] if size else []
    async with RawClient.connect(edge.port) as client:
        whole = sent(CHUNKED, body=b"".join(chunks) + b"0\r\n\r\n") if size else sent(body=raw)
        await client.send(whole)
        assert (await client.answer()).status == 200
    received = edge.engine.requests[0]
    assert received.header("content-length") == str(len(received.body))
    read = json.loads(received.body)
    assert (read["model"], read["messages"]) == (edge.at(BASE), body["messages"])


@pytest.mark.parametrize("start", [b"", BODY[:10]])
async def test_a_stalled_body(start_edge: StartEdge, start: bytes) -> None:
    """A body that does not come is given up, and the connection with it."""
    edge = await start_edge({"timeouts": {"body_idle": 0.05}})
    async with RawClient.connect(edge.port) as client:
        await client.send(sent(("Content-Length", str(len(BODY))), body=start))
        answer = await client.answer()
        assert (answer.status, answer.code) == (408, "request_timeout")
        assert answer.header("x-should-retry") is None
        assert await client.rest() == b""
    assert edge.engine.requests == []


async def test_a_caller_who_leaves_in_the_body(edge: Edge) -> None:
    """Half a body is nobody's request: nothing reaches the engine and nothing is held."""
    async with RawClient.connect(edge.port) as client:
        await client.send(sent(("Content-Length", "100"), body=BODY[:10]))

        async def waits() -> bool:
            return await edge.metric("hubgate_in_flight_requests") == 1

        await eventually(waits)
        client.leave()
    (record,) = await edge.records(1)
    assert (record["status"], record["reason"]) == (499, "client_left")
    assert edge.engine.requests == []


BROKEN = [b"zz\r\n", b"-1\r\n", b"5\r\nabcdefgh\r\n", b"ffffffffffffffffff\r\n"]


@each("broken", BROKEN)
async def test_broken_chunks(edge: Edge, broken: bytes) -> None:
    """Chunks that are none are a bad request; nothing of them is repeated."""
    async with RawClient.connect(edge.port) as client:
        await client.send(sent(CHUNKED, body=broken + b"canary"))
        answer = await client.answer()
        assert (answer.status, answer.code) == (400, "invalid_request")
        assert b"canary" not in answer.raw
        assert await client.rest() == b""
    assert edge.engine.requests == []


@pytest.mark.parametrize("broken", BROKEN)
async def test_broken_chunks_that_come_late(start_edge: StartEdge, broken: bytes) -> None:
    """A body that breaks while it is read is a bad request too."""
    edge = await start_edge({"timeouts": {"body_idle": 0.1}})
    async with RawClient.connect(edge.port) as client:
        await client.send(sent(CHUNKED, body=chunk(b'{"canary":')))

        async def waits() -> bool:
            return await edge.metric("hubgate_in_flight_requests") == 1

        await eventually(waits)
        await client.send(broken)
        answer = await client.answer()
        assert (answer.status, answer.code) == (400, "invalid_request")
        assert await client.rest() == b""
    assert edge.engine.requests == []


async def test_expect_100_continue(edge: Edge) -> None:
    """Who waits for leave to send the body gets it, once the caller is known."""
    async with RawClient.connect(edge.port) as client:
        await client.send(sent(("Expect", "100-Continue"), ("Content-Length", str(len(BODY))), body=b""))
        assert await client.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(BODY)
        assert (await client.answer()).status == 200


async def test_expect_100_continue_without_leave(edge: Edge) -> None:
    """Who may not call is told so at once and never asked for the body."""
    async with RawClient.connect(edge.port) as client:
        headers = [("Authorization", "Bearer x"), ("Expect", "100-continue"), ("Content-Length", "50")]
        await client.send(request("POST", CHAT, headers, b""))
        assert (await client.answer()).status == 401
    assert edge.hub_calls() == []


@each(
    ("header", "status", "code"),
    [
        (("Expect", "x"), 417, "expectation_failed"),
        (("Expect", "100-continue, x"), 417, "expectation_failed"),
        (("Content-Encoding", "gzip"), 415, "unsupported_media_type"),
        (("Content-Encoding", "zstd"), 415, "unsupported_media_type"),
        (("Content-Type", "text/plain"), 415, "unsupported_media_type"),
        (("Content-Type", "application/x-www-form-urlencoded"), 415, "unsupported_media_type"),
        (("Content-Type", "application/jsonp"), 415, "unsupported_media_type"),
        (("Content-Type", ""), 415, "unsupported_media_type"),
    ],
)
async def test_bodies_of_another_kind(edge: Edge, header: tuple[str, str], status: int, code: str) -> None:
    """Only plain JSON is read; the engine hears nothing of the rest."""
    async with RawClient.connect(edge.port) as client:
        await client.send(sent(header))
        answer = await client.answer()
    assert (answer.status, answer.code) == (status, code)
    assert edge.engine.requests == []


@each("kind", ["application/json; charset=utf-8", "APPLICATION/JSON", "application/json;x=y"])
async def test_json_by_any_spelling(edge: Edge, kind: str) -> None:
    """The media type counts, not its case or parameters."""
    async with RawClient.connect(edge.port) as client:
        await client.send(sent(("Content-Type", kind)))
        assert (await client.answer()).status == 200


async def test_requests_on_one_connection(edge: Edge) -> None:
    """A connection is kept between requests, also after a refusal whose body was read."""
    async with RawClient.connect(edge.port) as client:
        for body, status in ((BODY, 200), (b"{", 400), (BODY, 200)):
            await client.send(sent(body=body))
            assert (await client.answer()).status == status
        await client.send(sent() * 3)
        assert [(await client.answer()).status for _ in range(3)] == [200] * 3


async def test_a_large_body_goes_through(edge: Edge) -> None:
    """Megabytes arrive as they are."""
    text = "x" * 3_000_000
    assert (await asyncio.wait_for(edge.chat(user=text), 20)).status == 200
    received = edge.engine.requests[0]
    assert received.json()["user"] == text
    assert not {name for name, _ in received.headers} & {"transfer-encoding", "content-disposition"}
