"""Requests written byte by byte, and what a refusal of one has to look like."""

import msgspec

from hubgate.proxy import errors
from hubgate.proxy.errors import STATUS, Code, Denied
from tests.fakes.answers import chunk
from tests.fakes.lines import by_name
from tests.fakes.raw import RawAnswer, RawClient
from tests.fakes.running_proxy import ALICE, BASE, CHAT, Edge

BODY = msgspec.json.encode({"model": BASE, "messages": []})
CHUNKS = chunk(BODY) + chunk(b"")
LINE = f"POST {CHAT} HTTP/1.1".encode()
HOST = b"Host: hubgate"
AUTH = f"Authorization: Bearer {ALICE}".encode()
JSON = b"Content-Type: application/json"
LENGTH = b"Content-Length: %d" % len(BODY)
CHUNKED = b"Transfer-Encoding: chunked"
HEALTH = b"GET /health HTTP/1.1\r\nHost: hubgate\r\n\r\n"


def head(*lines: bytes) -> bytes:
    """A head of exactly these lines."""
    return b"\r\n".join([*lines, b"", b""])


def post(
    *more: bytes, line: bytes = LINE, host: bytes = HOST, length: bytes = LENGTH, body: bytes = BODY
) -> bytes:
    """A chat completion that alice may have, with `more` headers; an empty `host` or `length` is left out."""
    lines = (line, host, AUTH, JSON, length, *more)
    return head(*(part for part in lines if part)) + body


def chunked(body: bytes = CHUNKS, *more: bytes) -> bytes:
    """The same, with a body in chunks."""
    return post(CHUNKED, *more, length=b"", body=body)


async def refused(
    edge: Edge, data: bytes, code: Code = "invalid_request", *, closed: bool = True, known: bool = False
) -> RawAnswer:
    """Send this on a connection of its own and hold the refusal against the table of errors.

    Nothing reaches the engine; unless the caller is `known` by then, nothing the Hub either. If the
    connection is `closed`, no second answer comes before; else it serves the next request.
    """
    calls = len(edge.hub_calls())
    async with RawClient.connect(edge.port) as client:
        await client.send(data)
        answer = await client.answer(data.partition(b" ")[0].decode("latin-1"))
        told(answer, code)
        if closed:
            assert answer.header("Connection") == "close"
            assert await client.rest() == b""
        else:
            await alive(client)
    assert edge.engine.wire == b""
    assert known or len(edge.hub_calls()) == calls
    return answer


def told(answer: RawAnswer, code: Code) -> None:
    """The answer is this refusal, in OpenAI's shape, with the headers that belong to it."""
    assert (answer.status, answer.code) == (STATUS[code], code)
    assert answer.complete
    assert answer.raw.startswith(b"HTTP/1.1 ")
    assert answer.json().keys() == {"error"}
    assert answer.json()["error"].keys() == {"message", "type", "param", "code"}
    assert answer.header("Content-Type") == "application/json"
    assert answer.header("Server") == "hubgate"
    assert answer.header("X-Request-Id")
    assert answer.header("Transfer-Encoding") is None
    again = answer.header("Retry-After")
    plain = by_name(errors.lines(Denied(code, "", retry_after=int(again) if again else None)))
    assert answer.header("x-should-retry") == plain.get("x-should-retry")
    assert ALICE.encode() not in answer.raw


async def alive(client: RawClient) -> None:
    """The connection serves the next request."""
    await client.send(HEALTH)
    answer = await client.answer("GET")
    assert (answer.status, answer.json()) == (200, {"status": "alive"})


async def served(edge: Edge, data: bytes) -> RawAnswer:
    """Send this on a connection of its own: it is one good request, and the engine gets its body."""
    count = len(edge.engine.requests)
    async with RawClient.connect(edge.port) as client:
        await client.send(data)
        answer = await client.answer()
    assert answer.status == 200
    assert len(edge.engine.requests) == count + 1
    received = edge.engine.requests[-1]
    assert received.json()["messages"] == []
    assert received.header("transfer-encoding") is None
    assert edge.engine.wire.endswith(received.raw)  # and nothing behind it
    return answer
