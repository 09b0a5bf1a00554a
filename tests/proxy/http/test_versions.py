"""threats.md, row 4: HTTP/1.1 and HTTP/1.0 are spoken, and nothing that looks like them."""

import pytest

from tests.cases import each
from tests.fakes.answers import chunk, raw
from tests.fakes.answers import head as answer_head
from tests.fakes.raw import RawClient
from tests.fakes.running_proxy import CHAT, Edge, eventually
from tests.proxy.http.speech import AUTH, LENGTH, LINE, alive, head, post, refused, served

pytestmark = pytest.mark.asyncio(loop_scope="module")

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"  # RFC 9113, section 3.4


def line(version: bytes) -> bytes:
    return f"POST {CHAT} ".encode() + version


@each("version", [b"0.9", b"1.2", b"1.9", b"2.0", b"3.0", b"9.9", b"0.0"])
async def test_row_4_other_versions(edge: Edge, version: bytes) -> None:
    """A version that is well written and not ours is 505 (RFC 9110, section 15.6.6), close, 0-up."""
    await refused(edge, post(line=line(b"HTTP/" + version)), "http_version")


@pytest.mark.parametrize("data", [PREFACE, PREFACE + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"])
async def test_row_4_http_2_with_prior_knowledge(edge: Edge, data: bytes) -> None:
    """The preface of HTTP/2 is told so, in HTTP/1.1."""
    await refused(edge, data, "http_version")


@pytest.mark.parametrize("data", [b"GET /health\r\n\r\n", b"GET /health\r\nHost: x\r\n\r\n"])
async def test_row_4_http_0_9(edge: Edge, data: bytes) -> None:
    """A line without a version is HTTP/0.9, which has no headers and no status to be read from: 505."""
    await refused(edge, data, "http_version")


@each(
    "version",
    [
        b"HTTP/3",
        b"HTTP/11",
        b"HTTP/1.10",
        b"HTTP/01.1",
        b"HTTP/1.x",
        b"HTTP/1,1",
        b"HTTP/-1.1",
        b"HTTP 1.1",
        b"http/1.1",
        b"Http/1.1",
        b"HTTPS/1.1",
        b"HTTP/1.1\x00",
        b"HTTP/1.1 ",
        b"ICE/1.0",
        b"XTTP/1.1",
    ],
)
async def test_row_4_versions_that_are_none(edge: Edge, version: bytes) -> None:
    """What is no HTTP-version (RFC 9112, section 2.3) is a malformed line: 400, close, 0-up."""
    await refused(edge, post(line=line(version)))


async def test_http_1_0(edge: Edge) -> None:
    """HTTP/1.0 needs no Host and is closed after one answer."""
    data = post(line=line(b"HTTP/1.0"), host=b"")
    async with RawClient.connect(edge.port) as client:
        await client.send(data)
        answer = await client.answer()
        assert (answer.status, answer.complete) == (200, True)
        assert answer.header("Transfer-Encoding") is None
        assert await client.rest() == b""
    assert len(edge.engine.requests) == 1


async def test_http_1_0_with_keep_alive(edge: Edge) -> None:
    """HTTP/1.0 is kept where it asks for that, and is told so."""
    data = post(b"Connection: keep-alive", line=line(b"HTTP/1.0"))
    async with RawClient.connect(edge.port) as client:
        for _ in range(3):
            await client.send(data)
            answer = await client.answer()
            assert (answer.status, answer.header("Connection")) == (200, "keep-alive")
    assert len(edge.engine.requests) == 3


async def test_http_1_0_does_not_wait_for_100(edge: Edge) -> None:
    """`Expect: 100-continue` means nothing in HTTP/1.0 (RFC 9110, section 10.1.1)."""
    await served(edge, post(b"Expect: 100-continue", line=line(b"HTTP/1.0")))


UPGRADES = {
    "websocket": (
        b"Upgrade: websocket",
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZQ==",
        b"Sec-WebSocket-Version: 13",
    ),
    "h2c": (b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA"),
    "TLS": (b"Upgrade: TLS/1.0",),
    "unknown": (b"Upgrade: x",),
}


@pytest.mark.parametrize("upgrade", UPGRADES.values(), ids=UPGRADES)
async def test_row_11_upgrades_are_declined(edge: Edge, upgrade: tuple[bytes, ...]) -> None:
    """A request to change the protocol is answered as if nothing were asked, and so is what follows."""
    more = (b"Connection: Upgrade, HTTP2-Settings", *upgrade)
    async with RawClient.connect(edge.port) as client:
        await client.send(head(b"GET /health HTTP/1.1", b"Host: x", *more))
        answer = await client.answer("GET")
        assert (answer.status, answer.header("Upgrade")) == (200, None)
        await client.send(post(*more))
        assert (await client.answer()).status == 200
        await alive(client)
    assert len(edge.engine.requests) == 1
    assert b"pgrade" not in edge.engine.wire


@pytest.mark.parametrize("kept", [True, False])
async def test_an_upgrade_of_http_1_0_means_nothing(edge: Edge, *, kept: bool) -> None:
    """It is ignored there (RFC 9110, 7.8): the answer is for HTTP/1.0, without chunks."""
    connection = b"Connection: Upgrade, keep-alive" if kept else b"Connection: Upgrade"
    data = post(connection, b"Upgrade: x", line=line(b"HTTP/1.0"), host=b"")
    async with RawClient.connect(edge.port) as client:
        await client.send(data)
        answer = await client.answer()
        assert (answer.status, answer.header("Connection")) == (200, "keep-alive" if kept else "close")
    told = [("Content-Type", "text/event-stream"), ("Transfer-Encoding", "chunked")]
    edge.engine.then(raw(answer_head(200, told) + chunk(b"data: 1\n\n") + chunk(b"")))
    async with RawClient.connect(edge.port) as client:
        await client.send(data)
        answer = await client.answer()
        assert (answer.status, answer.header("Transfer-Encoding")) == (200, None)
        assert answer.body + await client.rest() == b"data: 1\n\n"


async def test_hundreds_of_upgrades_in_one_read(edge: Edge) -> None:
    """However many come at once behind a body, each is declined in its turn: none makes a call deeper."""
    more = head(b"GET /health HTTP/1.1", b"Host: x", b"Connection: Upgrade", b"Upgrade: x")
    count = 60_000 // len(more)  # in one read of a connection whose body is coming
    whole = post()
    async with RawClient.connect(edge.port) as client:
        await client.send(whole[:-1])

        async def body_is_read() -> bool:
            return await edge.metric("hubgate_in_flight_requests") >= 1

        await eventually(body_is_read)
        await client.send(whole[-1:] + more * count)
        assert (await client.answer()).status == 200
        for _ in range(count):
            assert (await client.answer("GET")).status == 200


@each("target", ["evil:443", "/health", CHAT, "*", "http://evil/"])
async def test_connect(edge: Edge, target: str) -> None:
    """CONNECT asks for a tunnel, which is never given: 400, close, 0-up."""
    await refused(edge, head(f"CONNECT {target} HTTP/1.1".encode(), b"Host: x", AUTH, LENGTH))


async def test_the_good_line_is_good(edge: Edge) -> None:
    """The request that all of these are made from is served."""
    await served(edge, post(line=LINE))
