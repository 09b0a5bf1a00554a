"""What a connection lives through: answers in order, errors, closing, and early answers."""

import pytest

from tests.fakes.answers import Stream
from tests.fakes.raw import RawClient
from tests.fakes.running_proxy import ALICE, Edge, eventually
from tests.proxy.http.speech import AUTH, BODY, HEALTH, HOST, alive, chunked, head, post, told

pytestmark = pytest.mark.asyncio(loop_scope="module")

CLOSE = b"Connection: close"
GARBAGE = b"garbage\r\n\r\n"


def health(name: str, *more: bytes) -> bytes:
    return head(b"GET /health HTTP/1.1", HOST, b"X-Request-Id: " + name.encode(), *more)


async def test_pipelined_requests_are_answered_in_order(edge: Edge) -> None:
    """A hundred requests in one segment have a hundred answers, in their order, whichever is slow."""
    asked = []
    for number in range(100):
        name = f"request-{number}"
        identity = b"X-Request-Id: " + name.encode()
        asked.append(post(identity) if number % 10 == 0 else health(name))
    async with RawClient.connect(edge.port) as client:
        await client.send(b"".join(asked))
        for number in range(100):
            answer = await client.answer()
            assert (answer.status, answer.header("X-Request-Id")) == (200, f"request-{number}")
    assert len(edge.engine.requests) == 10


@pytest.mark.parametrize(
    "good",
    [
        HEALTH,
        post(),
        chunked(),
    ],
    ids=["no body", "length", "chunks"],
)
async def test_a_good_request_before_a_bad_one(edge: Edge, good: bytes) -> None:
    """What was whole and good before a fault in the same segment is answered; then 400 and the end."""
    async with RawClient.connect(edge.port) as client:
        await client.send(good + GARBAGE)
        assert (await client.answer()).status == 200
        told(await client.answer(), "invalid_request")
        assert await client.rest() == b""


async def test_a_bad_request_after_a_good_one(edge: Edge) -> None:
    """A connection that has served ends with the first fault, and nothing behind it is read."""
    async with RawClient.connect(edge.port) as client:
        await client.send(post())
        assert (await client.answer()).status == 200
        await client.send(GARBAGE + post())
        told(await client.answer(), "invalid_request")
        assert await client.rest() == b""
    assert len(edge.engine.requests) == 1


REFUSED = {
    "unknown path": (404, post(line=b"POST /nowhere HTTP/1.1")),
    "unknown path, chunked": (404, chunked().replace(b"/v1/chat/completions", b"/nowhere")),
    "wrong method": (405, post(line=b"PUT /v1/chat/completions HTTP/1.1")),
    "no credential": (401, post().replace(ALICE.encode(), b"")),
    "no JSON": (400, post(length=b"Content-Length: 1", body=b"{")),
    "another kind": (415, post(b"Content-Encoding: gzip")),
    "unknown model": (404, post(length=b"Content-Length: 35", body=b'{"model":"demo/none","messages":[]}')),
}


@pytest.mark.parametrize(("status", "data"), REFUSED.values(), ids=REFUSED)
async def test_a_connection_goes_on_after_a_refusal(edge: Edge, status: int, data: bytes) -> None:
    """A refused request whose body came whole costs nobody the connection."""
    async with RawClient.connect(edge.port) as client:
        for _ in range(2):
            await client.send(data)
            answer = await client.answer()
            assert (answer.status, answer.header("Connection")) == (status, None)
        await client.send(data + HEALTH)  # pipelined
        assert (await client.answer()).status == status
        assert (await client.answer()).status == 200
        await alive(client)
    assert edge.engine.wire == b""


@pytest.mark.parametrize("data", [health("request-1", CLOSE), post(CLOSE), chunked(b"0\r\n\r\n", CLOSE)])
async def test_the_caller_asks_to_close(edge: Edge, data: bytes) -> None:
    """`Connection: close` is obeyed and echoed (RFC 9112, section 9.6), in refusals too."""
    async with RawClient.connect(edge.port) as client:
        await client.send(data)
        answer = await client.answer()
        assert answer.header("Connection") == "close"
        assert answer.complete
        assert await client.rest() == b""


@pytest.mark.parametrize(
    "behind",
    [
        b"\r\n",
        HEALTH,
        GARBAGE,
    ],
)
async def test_what_follows_the_last_request_is_not_read(edge: Edge, behind: bytes) -> None:
    """Bytes behind a request that asked to close change nothing about its answer, and have none."""
    async with RawClient.connect(edge.port) as client:
        await client.send(health("request-1", CLOSE) + behind)
        assert (await client.answer()).status == 200
        assert await client.rest() == b""


@pytest.mark.parametrize(
    ("line", "status"), [(b"POST /nowhere HTTP/1.1", 404), (b"POST /v1/models HTTP/1.1", 405)]
)
async def test_an_early_answer_does_not_wait_for_the_body(edge: Edge, line: bytes, status: int) -> None:
    """Who is refused by the head is told at once, and the body that comes then is no request."""
    smuggled = post(b"X-Request-Id: smuggled-1")
    async with RawClient.connect(edge.port) as client:
        await client.send(head(line, HOST, AUTH, b"Content-Length: %d" % len(smuggled)))
        assert (await client.answer()).status == status
        await client.send(smuggled + health("behind-it"))
        last = await client.answer()  # it may as well have been closed
        assert last.raw == b"" or last.header("X-Request-Id") == "behind-it"
    assert edge.engine.wire == b""


async def test_row_11_leave_to_go_on(edge: Edge) -> None:
    """`Expect: 100-continue` gets 100 once the caller is known, and the answer after the body."""
    async with RawClient.connect(edge.port) as client:
        await client.send(post(b"Expect: 100-Continue", body=b""))
        assert await client.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert edge.hub_calls("alice") == ["GET /api/whoami-v2"]
        await client.send(BODY)
        assert (await client.answer()).status == 200
        await alive(client)
    assert len(edge.engine.requests) == 1
    assert b"xpect" not in edge.engine.wire


async def test_row_11_leave_with_the_body_sent_already(edge: Edge) -> None:
    """Who does not wait for leave is served as well, with or without an interim answer."""
    async with RawClient.connect(edge.port) as client:
        await client.send(post(b"Expect: 100-continue"))
        answer = await client.answer()
        if answer.status == 100:
            answer = await client.answer()
        assert answer.status == 200
    assert len(edge.engine.requests) == 1


EARLY = {
    "no credential": (401, post(b"Expect: 100-continue", body=b"").replace(ALICE.encode(), b"x")),
    "unknown path": (404, post(b"Expect: 100-continue", line=b"POST /x HTTP/1.1", body=b"")),
    "too long": (413, post(b"Expect: 100-continue", length=b"Content-Length: 99999999999", body=b"")),
    "another kind": (415, post(b"Expect: 100-continue", b"Content-Encoding: br", body=b"")),
}


@pytest.mark.parametrize(("status", "data"), EARLY.values(), ids=EARLY)
async def test_row_11_no_leave(edge: Edge, status: int, data: bytes) -> None:
    """Who will be refused anyway is told instead of 100, and never asked for the body."""
    async with RawClient.connect(edge.port) as client:
        await client.send(data)
        assert (await client.answer()).status == status
    assert edge.engine.wire == b""


async def test_a_caller_who_leaves_before_the_answer(edge: Edge) -> None:
    """A request whose caller has gone is ended at the engine too."""
    edge.engine.always(Stream())
    async with RawClient.connect(edge.port) as client:
        await client.send(post())
        await edge.engine.received(1)
    await edge.engine.until(lambda: not edge.engine.connections)

    async def nothing_under_way() -> bool:
        return await edge.metric("hubgate_in_flight_requests") == 0

    await eventually(nothing_under_way)


async def test_nobody_waits_for_a_caller_in_the_middle_of_a_head(edge: Edge) -> None:
    """A connection that ends within a head leaves no trace."""
    for data in (b"", b"P", b"POST /v1", post()[:60], post(body=b"")):
        async with RawClient.connect(edge.port) as client:
            await client.send(data)
    assert edge.engine.wire == b""
