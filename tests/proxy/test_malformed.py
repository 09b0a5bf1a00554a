"""Bytes that are no request: one shape of error, nothing repeated to the caller or the log, 0-up."""

import json

import pytest

from tests.fakes.answers import chunk
from tests.fakes.edge import ALICE, BASE, CHAT, Edge
from tests.fakes.raw import RawClient, ask

BODY = json.dumps({"model": BASE, "messages": []}).encode()
LINE = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\n".encode()
AUTH = f"Authorization: Bearer {ALICE}\r\nContent-Type: application/json\r\n".encode()
LENGTH = f"Content-Length: {len(BODY)}\r\n".encode()
CANARY = b"hf_canary4711"
SECRET = b"Authorization: Bearer " + CANARY


@pytest.mark.parametrize(
    "sent",
    [
        LINE + SECRET + b"\x01\r\n" + LENGTH + b"\r\n" + BODY,
        LINE + SECRET + b"\x00\r\n" + LENGTH + b"\r\n" + BODY,
        LINE + SECRET + b"\nX: y\r\n" + LENGTH + b"\r\n" + BODY,
        LINE + b"Authorization : Bearer " + CANARY + b"\r\n\r\n",
        LINE + b"Authorization: Bearer\r\n " + CANARY + b"\r\n\r\n",
        LINE + SECRET + b"a" * 9000 + b"\r\n\r\n",
        LINE + b"X" * 9000 + b": " + CANARY + b"\r\n\r\n",
        b"GET /v1/models?" + CANARY + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        LINE + b"".join(b"X-%d: " % number + CANARY + b"\r\n" for number in range(5000)) + b"\r\n",
        CANARY + b"\r\n\r\n",
        b"FOO " + CANARY + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"get /v1/models?" + CANARY + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v1/models?" + CANARY + b" HTTP/1.2\r\nHost: x\r\n\r\n",
        b"GET /v1/models?" + CANARY + b" HTTP/9.9\r\nHost: x\r\n\r\n",
        b"GET /v1/models?" + CANARY + b" HTTP/1.1\r\n\r\n",
        b"GET /v1/models?" + CANARY + b" HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
        LINE + AUTH + LENGTH + b"Transfer-Encoding: chunked\r\n\r\n" + chunk(BODY) + chunk(b""),
        LINE + AUTH + b"Transfer-Encoding: chunked\r\n" + LENGTH + b"\r\n" + chunk(BODY) + chunk(b""),
        LINE + AUTH + LENGTH * 2 + b"\r\n" + BODY,
        LINE + AUTH + b"Content-Length: 5, 5\r\n\r\n" + BODY,
        LINE + AUTH + b"Content-Length: -1\r\n\r\n" + BODY,
        LINE + AUTH + b"Content-Length: +5\r\n\r\n" + BODY,
        LINE + AUTH + b"Content-Length: 0x5\r\n\r\n" + BODY,
        LINE + AUTH + b"Content-Length: 99999999999999999999999999\r\n\r\n" + BODY,
        LINE + AUTH + b"Transfer-Encoding: chunked, identity\r\n\r\n" + chunk(BODY) + chunk(b""),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\x00" * 100,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
async def test_malformed_requests(
    edge: Edge, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], sent: bytes
) -> None:
    """Malformed framing is 400 or 431 in OpenAI's shape, and closes; no byte of it is quoted anywhere."""
    async with RawClient.connect(edge.port) as client:
        await client.send(sent)
        answer = await client.answer()
        assert (answer.status, answer.code) in {(400, "invalid_request"), (431, "headers_too_large")}
        assert answer.header("X-Request-Id")
        assert answer.header("Content-Type") == "application/json"
        await client.rest()
    out, err = capfd.readouterr()
    for seen in (answer.raw.decode(), caplog.text, out, err):
        assert CANARY.decode() not in seen
        assert ALICE not in seen
    assert edge.engine.requests == []
    assert edge.hub_calls() == []


@pytest.mark.parametrize("where", ["line", "name", "value"])
async def test_long_heads_are_431(edge: Edge, where: str) -> None:
    """A request line or a header that is too long is told so."""
    long = b"a" * 10_000
    sent = {
        "line": b"GET /" + long + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        "name": b"GET / HTTP/1.1\r\nHost: x\r\n" + long + b": x\r\n\r\n",
        "value": b"GET / HTTP/1.1\r\nHost: x\r\nX: " + long + b"\r\n\r\n",
    }[where]
    answer = await ask(edge.port, sent)
    assert (answer.status, answer.code) == (431, "headers_too_large")


@pytest.mark.parametrize(
    "smuggled", [b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n", b"POST /pause HTTP/1.1\r\n"]
)
async def test_nothing_is_smuggled(edge: Edge, smuggled: bytes) -> None:
    """What stands behind a malformed request is never read as a request of its own."""
    sent = LINE + AUTH + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + smuggled
    async with RawClient.connect(edge.port) as client:
        await client.send(sent)
        everything = await client.rest()
    assert everything.startswith(b"HTTP/1.1 400 ")
    assert everything.count(b"X-Request-Id") == 1
    assert edge.engine.requests == []


async def test_an_upgrade_is_declined(edge: Edge) -> None:
    """The proxy speaks nothing but HTTP/1.1: the request is answered as if nothing were asked."""
    upgrade = b"Connection: upgrade\r\nUpgrade: websocket\r\n"
    answer = await ask(edge.port, LINE + AUTH + upgrade + LENGTH + b"\r\n" + BODY)
    assert answer.status == 200
    assert edge.engine.requests[0].header("upgrade") is None


async def test_other_callers_are_unharmed(edge: Edge) -> None:
    """While many connections send garbage or nothing, a good request is answered."""
    async with RawClient.connect(edge.port) as idle, RawClient.connect(edge.port) as slow:
        await idle.send(b"POST")
        await slow.send(LINE + AUTH)
        for _ in range(20):
            assert (await ask(edge.port, b"garbage\r\n\r\n")).status == 400
        assert (await edge.chat()).status == 200
