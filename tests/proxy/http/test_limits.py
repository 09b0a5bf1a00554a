"""threats.md, row 39 and its like: slow callers, long bodies. Every test has its own limits."""

import asyncio

import pytest

from tests.fakes.answers import Stream, chunk
from tests.fakes.raw import RawClient
from tests.fakes.running_proxy import ALICE, BASE, Edge
from tests.proxy.conftest import StartEdge
from tests.proxy.http.speech import AUTH, BODY, HEALTH, HOST, LINE, alive, chunked, head, post, told

SLOW = {"timeouts": {"header": 0.15, "body_idle": 0.15}}
SMALL = {"request": {"max_body_bytes": 1000}}
BIG = b'{"model":"%s","messages":[],"user":"%s"}' % (BASE.encode(), b"x" * 1000)

PARTS = {
    "method": b"PO",
    "line": LINE,
    "line and end": LINE + b"\r\n",
    "headers": LINE + b"\r\n" + HOST + b"\r\n" + AUTH,
    "all but the last byte": head(LINE, HOST, AUTH)[:-1],
}


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
async def test_row_39_a_slow_head(start_edge: StartEdge, part: bytes) -> None:
    """A head that does not end within `timeouts.header` is 408, close, 0-up, on a used connection too."""
    edge = await start_edge(SLOW)
    async with RawClient.connect(edge.port) as client, RawClient.connect(edge.port) as used:
        await alive(used)
        for slow in (client, used):
            await slow.send(part)
        for slow in (client, used):
            told(await slow.answer(), "request_timeout")
            assert await slow.rest() == b""
    assert edge.engine.wire == b""
    assert edge.hub_calls() == []


async def test_a_slow_head_of_head(start_edge: StartEdge) -> None:
    """Its answer has no body either; before the method is read, nobody knows."""
    edge = await start_edge(SLOW)
    async with RawClient.connect(edge.port) as client, RawClient.connect(edge.port) as early:
        await client.send(b"HEAD /health HTTP/1.1\r\nHost: a\r\n")
        await early.send(head(b"HEAD /health HTTP/1.1", HOST) + b"GE")
        assert (await early.answer("HEAD")).status == 200
        assert (await client.answer("HEAD")).status == 408
        assert await client.rest() == b""
        told(await early.answer(), "request_timeout")


async def test_row_39_a_dripping_head(start_edge: StartEdge) -> None:
    """The time is for the whole head: a byte now and then does not renew it."""
    edge = await start_edge(SLOW)
    async with RawClient.connect(edge.port) as client:
        dripping = asyncio.create_task(_drip(client))
        told(await client.answer(), "request_timeout")
        assert await client.rest() == b""
        dripping.cancel()
    assert edge.engine.wire == b""


async def _drip(client: RawClient) -> None:
    await client.send(LINE + b"\r\nX: ")
    while True:
        await client.send(b"a")
        await asyncio.sleep(0.02)


async def test_row_39_a_caller_who_says_nothing(start_edge: StartEdge) -> None:
    """A connection on which nothing ever comes is closed without a word, after `timeouts.header`."""
    edge = await start_edge(SLOW)
    async with RawClient.connect(edge.port) as client:
        assert await client.rest() == b""


@pytest.mark.parametrize(
    "whole",
    [HEALTH, post()],
    ids=["no body", "body"],
)
async def test_row_39_a_slow_head_behind_a_request(start_edge: StartEdge, whole: bytes) -> None:
    """A head that began in the segment of the request before it has no more time than any other."""
    edge = await start_edge(SLOW)
    async with RawClient.connect(edge.port) as client:
        await client.send(whole + LINE)
        assert (await client.answer()).status == 200
        async with asyncio.timeout(3):
            told(await client.answer(), "request_timeout")
            assert await client.rest() == b""


async def test_row_39_an_idle_connection_is_kept(start_edge: StartEdge) -> None:
    """Between two requests there is no head under way, and nothing is cut."""
    edge = await start_edge(SLOW)
    async with RawClient.connect(edge.port) as client:
        await client.send(post())
        assert (await client.answer()).status == 200
        await _time_passes(edge)
        await alive(client)


async def test_row_39_a_stream_is_not_cut_for_what_stands_behind_it(start_edge: StartEdge) -> None:
    """While an answer is under way, a slow head behind its request costs it nothing."""
    edge = await start_edge(SLOW)
    stream = Stream()
    edge.engine.always(stream)
    async with RawClient.connect(edge.port) as client:
        await client.send(post())
        await edge.engine.received(1)
        await client.send(LINE)
        await _time_passes(edge)
        stream.finish()
        answer = await client.answer()
        assert (answer.status, answer.complete, answer.body) == (200, True, bytes(stream.sent))
        told(await client.answer(), "request_timeout")


async def _time_passes(edge: Edge) -> None:
    """Wait until a head that begins now is late, and with it every one that began before."""
    async with RawClient.connect(edge.port) as client:
        await client.send(LINE)
        told(await client.answer(), "request_timeout")


STALLED = {
    "nothing": post(body=b""),
    "some": post(body=BODY[:10]),
    "all but one": post(body=BODY[:-1]),
    "no chunk": chunked(b""),
    "a chunk's size": chunked(b"5"),
    "a part of a chunk": chunked(b"5\r\nab"),
    "a chunk": chunked(chunk(BODY)),
    "all but the end": chunked(chunk(BODY) + b"0\r\n"),
    "after leave": post(b"Expect: 100-continue", body=b""),
}


@pytest.mark.parametrize("data", STALLED.values(), ids=STALLED)
async def test_row_39_a_stalled_body(start_edge: StartEdge, data: bytes) -> None:
    """A body that does not go on within `timeouts.body_idle` is 408, close, 0-up."""
    edge = await start_edge(SLOW)
    async with RawClient.connect(edge.port) as client:
        await client.send(data)
        answer = await client.answer()
        if answer.status == 100:
            answer = await client.answer()
        told(answer, "request_timeout")
        assert answer.header("Connection") == "close"
        assert await client.rest() == b""
    assert edge.engine.wire == b""


LONG = {
    "length": post(length=b"Content-Length: %d" % len(BIG), body=BIG),
    "length only": post(length=b"Content-Length: 99999999999", body=b""),
    "one chunk": chunked(chunk(BIG) + chunk(b"")),
    "many chunks": chunked(b"".join(chunk(BIG[at : at + 10]) for at in range(0, len(BIG), 10)) + chunk(b"")),
    "a chunk's size only": chunked(b"fffffff\r\n" + BIG),
}


@pytest.mark.parametrize("data", LONG.values(), ids=LONG)
async def test_bodies_over_the_limit(start_edge: StartEdge, data: bytes) -> None:
    """A body that is too long, by its length or as it comes, is 413, close, 0-up."""
    edge = await start_edge(SMALL)
    async with RawClient.connect(edge.port) as client:
        await client.send(data)
        answer = await client.answer()
        told(answer, "request_too_large")
        assert answer.header("Connection") == "close"
    assert edge.engine.wire == b""
    async with RawClient.connect(edge.port) as client:
        await alive(client)


async def test_the_limit_itself(start_edge: StartEdge) -> None:
    """A body of exactly the limit is served, in one piece or in chunks."""
    edge = await start_edge({"request": {"max_body_bytes": len(BODY)}})
    async with RawClient.connect(edge.port) as client:
        for data in (post(), chunked()):
            await client.send(data)
            assert (await client.answer()).status == 200
        await client.send(post(length=b"Content-Length: %d" % (len(BODY) + 1), body=BODY + b" "))
        told(await client.answer(), "request_too_large")


@pytest.mark.parametrize("in_chunks", [False, True])
async def test_a_caller_who_sends_all_before_reading(start_edge: StartEdge, *, in_chunks: bool) -> None:
    """A refusal arrives also at a caller who sends megabytes first, as HTTP clients do: no reset eats it."""
    edge = await start_edge(SMALL)
    body = b" " * 3_000_000
    data = (
        chunked(chunk(body) + chunk(b""))
        if in_chunks
        else post(length=b"Content-Length: %d" % len(body), body=body)
    )
    async with RawClient.connect(edge.port) as client:
        await client.send(data)
        told(await client.answer(), "request_too_large")
    assert edge.engine.wire == b""


async def test_row_13_a_vast_chunk_extension(start_edge: StartEdge) -> None:
    """Framing without content is not read for ever: megabytes of extension end the connection, 0-up."""
    edge = await start_edge()
    body = b"%x;a=%s\r\n%s\r\n0\r\n\r\n" % (len(BODY), b"b" * 2_000_000, BODY)
    async with RawClient.connect(edge.port) as client:
        seen = await _flood(client, chunked(body))
        assert b" 200 " not in seen
    assert edge.engine.wire == b""


@pytest.mark.parametrize("trailer", [b"X-%d: a\r\n", b"X: %d\r\n"])
async def test_row_13_ten_thousand_trailers(start_edge: StartEdge, trailer: bytes) -> None:
    """Trailers are limited like headers: 400 or 431, or just the end of the connection; 0-up."""
    edge = await start_edge()
    trailers = b"".join(trailer % number for number in range(10_000))
    async with RawClient.connect(edge.port) as client:
        seen = await _flood(client, chunked(chunk(BODY) + b"0\r\n" + trailers + b"\r\n"))
        assert seen[:12] in (b"", b"HTTP/1.1 400", b"HTTP/1.1 431")
    assert edge.engine.wire == b""


async def _flood(client: RawClient, data: bytes) -> bytes:
    """Send what may not be read to its end; gives everything that came back."""
    try:
        await client.send(data)
    except ConnectionError:
        return b""
    return await client.rest()


async def test_the_credential_comes_first(start_edge: StartEdge) -> None:
    """Nobody can make the proxy wait for, or read, a body without a credential."""
    edge: Edge = await start_edge()
    async with RawClient.connect(edge.port) as client:
        await client.send(post(body=b"").replace(ALICE.encode(), b"x"))
        told(await client.answer(), "invalid_api_key")
    assert edge.hub_calls() == []
