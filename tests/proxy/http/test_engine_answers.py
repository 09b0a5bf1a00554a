"""threats.md, row 12: an engine that cannot be read, or says too much, is 502, at no cost to others."""

import asyncio

import pytest

from tests.fakes.answers import chunk, completion, head, raw, whole
from tests.fakes.engine import Connection, Received
from tests.fakes.raw import RawClient
from tests.fakes.running_proxy import Edge
from tests.proxy.http.speech import alive, post, told

pytestmark = pytest.mark.asyncio(loop_scope="module")

JSON = b'{"model":"m"}'
TYPE = ("Content-Type", "application/json")
LENGTH = ("Content-Length", str(len(JSON)))
CHUNKED = ("Transfer-Encoding", "chunked")
CHUNKS = chunk(JSON) + chunk(b"")

HOSTILE = {
    "length twice": head(200, [TYPE, LENGTH, LENGTH]) + JSON,
    "two lengths": head(200, [TYPE, LENGTH, ("Content-Length", "3")]) + JSON,
    "list of lengths": head(200, [TYPE, ("Content-Length", f"{len(JSON)}, {len(JSON)}")]) + JSON,
    "length and chunks": head(200, [TYPE, LENGTH, CHUNKED]) + CHUNKS,
    "chunks and length": head(200, [TYPE, CHUNKED, LENGTH]) + CHUNKS,
    "chunked twice": head(200, [TYPE, CHUNKED, CHUNKED]) + CHUNKS,
    "sign": head(200, [TYPE, ("Content-Length", f"+{len(JSON)}")]) + JSON,
    "no length": head(200, [TYPE]) + JSON,
    "NUL in a value": head(200, [TYPE, LENGTH, ("X-A", "a\0b")]) + JSON,
    "NUL in a name": head(200, [TYPE, LENGTH, ("X\0A", "a")]) + JSON,
    "CR in a value": head(200, [TYPE, LENGTH, ("X-A", "a\rb: c")]) + JSON,
    "no colon": head(200, [TYPE, LENGTH]).replace(b"\r\n\r\n", b"\r\nabc\r\n\r\n") + JSON,
    "101": head(101, [("Upgrade", "x"), ("Connection", "upgrade")]),
    "101 and an answer": head(101, [("Upgrade", "x"), ("Connection", "upgrade")]) + whole(200, JSON),
    "long value": head(200, [TYPE, LENGTH, ("X-A", "a" * 100_000)]) + JSON,
    "long name": head(200, [TYPE, LENGTH, ("X" * 100_000, "a")]) + JSON,
    "long reason": b"HTTP/1.1 200 " + b"a" * 100_000 + b"\r\n\r\n",
    "10,000 headers": head(200, [TYPE, LENGTH, *((f"X-{n}", "a") for n in range(10_000))]) + JSON,
    "HTTP/2.0": head(200, [TYPE, LENGTH]).replace(b"HTTP/1.1", b"HTTP/2.0") + JSON,
    "HTTP/0.9": JSON,
    "no status": b"HTTP/1.1\r\n\r\n",
    "status of four digits": b"HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n",
    "broken chunk": head(200, [TYPE, CHUNKED]) + b"zz\r\n" + JSON,
    "TLS": b"\x15\x03\x01\x00\x02\x02\x46",
}


@pytest.mark.parametrize("answer", HOSTILE.values(), ids=HOSTILE)
async def test_row_12_hostile_framing(edge: Edge, answer: bytes) -> None:
    """What cannot be told to be whole and the engine's own is 502; the caller's connection goes on."""
    edge.engine.then(raw(answer, close=True))
    async with RawClient.connect(edge.port) as client:
        await client.send(post())
        told(await client.answer(), "upstream_error")
        await alive(client)
        await client.send(post())
        assert (await client.answer()).status == 200
    assert len(edge.engine.requests) == 2


@pytest.mark.parametrize("piece", [b"X-A: a\r\n", b"X" * 1000])
async def test_row_12_endless_headers(edge: Edge, piece: bytes) -> None:
    """An engine that never ends its head is given up: 502, and its connection with it."""

    async def endless(_: Received, connection: Connection) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\n")
        for _piece in range(20_000):
            if connection.left.is_set():
                return
            connection.send(piece)
            await asyncio.sleep(0)
        pytest.fail("it read twenty thousand pieces")

    edge.engine.then(endless)
    async with RawClient.connect(edge.port) as client:
        await client.send(post())
        told(await client.answer(), "upstream_error")
        await alive(client)


async def test_row_12_a_header_of_the_engine_splits_nothing(edge: Edge) -> None:
    """A line end in a header that would be passed on does not make two headers, or an answer, of it."""
    for evil in ("application/json\nSet-Cookie: a=b", "application/json\r\rSet-Cookie: a=b"):
        edge.engine.then(raw(head(200, [("Content-Type", evil), LENGTH]) + JSON, close=True), completion())
        async with RawClient.connect(edge.port) as client:
            await client.send(post())
            answer = await client.answer()
        assert answer.header("Set-Cookie") is None
