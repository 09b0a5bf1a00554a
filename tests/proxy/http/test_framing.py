"""threats.md, rows 1 and 3: where a request ends is never a matter of opinion."""

import pytest

from tests.cases import each
from tests.fakes.answers import chunk
from tests.fakes.raw import RawClient
from tests.fakes.running_proxy import ALICE, CHAT, Edge, eventually
from tests.proxy.http.conftest import CANARY
from tests.proxy.http.speech import (
    BODY,
    CHUNKED,
    CHUNKS,
    HEALTH,
    LENGTH,
    LINE,
    alive,
    chunked,
    head,
    post,
    refused,
    served,
    told,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

SIZE = b"%x" % len(BODY)
CANARY_BYTES = CANARY.encode()


@each(
    "data",
    [
        post(CHUNKED, body=CHUNKS),
        post(CHUNKED, length=b"", body=CHUNKS).replace(CHUNKED, CHUNKED + b"\r\n" + LENGTH),
        post(b"transfer-encoding: CHUNKED", body=CHUNKS),
        post(b"Transfer-Encoding: identity"),
        post(CHUNKED, length=b"Content-Length: 4", body=b"0\r\n\r\n"),
    ],
)
async def test_row_1_length_and_chunks(edge: Edge, data: bytes) -> None:
    """A request with both a length and chunks has two ends (RFC 9112, section 6.1): 400, close, 0-up."""
    await refused(edge, data)


@pytest.mark.parametrize("smuggled", [HEALTH, f"POST {CHAT} HTTP/1.1\r\n".encode(), b"\x00" * 100])
async def test_row_1_nothing_is_smuggled(edge: Edge, smuggled: bytes) -> None:
    """What stands behind a malformed request is never read as a request of its own."""
    await refused(edge, post(CHUNKED, length=b"Content-Length: 4", body=b"0\r\n\r\n" + smuggled))


@each(
    "lines",
    [
        [LENGTH, LENGTH],
        [LENGTH, b"Content-Length: 3"],
        [b"Content-Length: 3", LENGTH],
        [LENGTH, LENGTH.lower()],
        [LENGTH.replace(b": ", b": 5, ")],
        [b"Content-Length: %d, %d" % (len(BODY), len(BODY))],
        *(
            [b"Content-Length: " + value % len(BODY)]
            for value in (b"+%d", b"-%d", b"%d x", b"0x%x", b"%de0", b"%d.0", b"1_%d", b"'%d'", b"%d\x0b")
        ),
        [b"Content-Length: 4 4"],
        [b"Content-Length:"],
        [b"Content-Length: " + "٤".encode()],
        [b"Content-Length: 18446744073709551616"],
        [b"Content-Length: " + b"9" * 40],
    ],
)
async def test_row_1_lengths_that_are_none(edge: Edge, lines: list[bytes]) -> None:
    """Two lengths, equal ones too, and anything but digits (RFC 9112, section 6.3): 400, close, 0-up."""
    await refused(edge, post(*lines, length=b""))


@each("value", [b"%d ", b"\t%d", b" %d\t"])
async def test_space_around_a_length(edge: Edge, value: bytes) -> None:
    """Optional whitespace is not part of a value (RFC 9110, section 5.5)."""
    await served(edge, post(length=b"Content-Length:" + value % len(BODY)))


@each(
    "value",
    [
        b"gzip, chunked",
        b"chunked, gzip",
        b"chunked, chunked",
        b"chunked, identity",
        b"identity",
        b"identity, chunked",
        b"xchunked",
        b"chunkedx",
        b"chunked;q=1",
        b"chunked,",
        b", chunked",
        b'"chunked"',
        b"chunked\x0b",
        b"gzip",
        b"",
    ],
)
async def test_row_3_odd_transfer_codings(edge: Edge, value: bytes) -> None:
    """Any coding but a single `chunked` is refused, wherever it stands in the list: 400, close, 0-up."""
    await refused(edge, post(b"Transfer-Encoding: " + value, length=b"", body=CHUNKS))


@each("first", [b"chunked", b"identity", b"gzip"])
async def test_row_3_transfer_coding_twice(edge: Edge, first: bytes) -> None:
    """Two Transfer-Encoding lines are refused, equal ones too."""
    await refused(edge, chunked(CHUNKS, b"Transfer-Encoding: " + first))


@pytest.mark.parametrize("keep", [(), (b"Connection: keep-alive",)])
async def test_row_3_chunks_in_http_1_0(edge: Edge, keep: tuple[bytes, ...]) -> None:
    """HTTP/1.0 knows no transfer coding: its framing is faulty (RFC 9112, section 6.1)."""
    await refused(edge, chunked(CHUNKS, *keep).replace(b"HTTP/1.1", b"HTTP/1.0", 1))


@pytest.mark.parametrize("value", [b"chunked", b"CHUNKED", b"  Chunked"])
async def test_chunks(edge: Edge, value: bytes) -> None:
    """`chunked` in any case is read; the engine gets a length and no chunks."""
    await served(edge, post(b"Transfer-Encoding:" + value, length=b"", body=CHUNKS))


@pytest.mark.parametrize("piece", [1, 7, 1000])
async def test_chunks_of_any_size(edge: Edge, piece: int) -> None:
    """One byte a chunk is the same body."""
    pieces = [BODY[at : at + piece] for at in range(0, len(BODY), piece)]
    await served(edge, chunked(b"".join(map(chunk, [*pieces, b""]))))


BROKEN = {
    "hex prefix": b"0x" + SIZE + b"\r\n" + BODY + b"\r\n0\r\n\r\n",
    "plus": b"+" + SIZE + b"\r\n" + BODY + b"\r\n0\r\n\r\n",
    "minus": b"-" + SIZE + b"\r\n" + BODY + b"\r\n0\r\n\r\n",
    "space before": b" " + SIZE + b"\r\n" + BODY + b"\r\n0\r\n\r\n",
    "space after": SIZE + b" \r\n" + BODY + b"\r\n0\r\n\r\n",
    "no digit": b"zz\r\n",
    "empty": b"\r\n" + BODY + b"\r\n0\r\n\r\n",
    "underscore": b"1_0\r\n",
    "64 bits and more": b"1" + b"0" * 16 + b"\r\n",
    "all bits": b"f" * 18 + b"\r\n",
    "bare LF": SIZE + b"\n" + BODY + b"\n0\n\n",
    "bare CR": SIZE + b"\r" + BODY + b"\r0\r\r",
    "data too long": b"5\r\nabcdefgh\r\n",
    "data without CRLF": SIZE + b"\r\n" + BODY + b"XX0\r\n\r\n",
    "LF in extension": SIZE + b";a\n\r\n" + BODY + b"\r\n0\r\n\r\n",
    "NUL in extension": SIZE + b";\x00\r\n" + BODY + b"\r\n0\r\n\r\n",
    "NUL in trailer": chunk(BODY) + b"0\r\nX: \x00\r\n\r\n",
    "trailer without colon": chunk(BODY) + b"0\r\nX\r\n\r\n",
    "space before colon in trailer": chunk(BODY) + b"0\r\nX : a\r\n\r\n",
}


@pytest.mark.parametrize("body", BROKEN.values(), ids=BROKEN)
async def test_broken_chunks(edge: Edge, body: bytes) -> None:
    """A chunk that breaks RFC 9112, section 7.1, is 400 and the end of the connection; 0-up."""
    await refused(edge, chunked(body + CANARY_BYTES), known=True)


@pytest.mark.parametrize("body", BROKEN.values(), ids=BROKEN)
async def test_broken_chunks_that_come_late(edge: Edge, body: bytes) -> None:
    """A body that breaks while it is waited for is told the same, at once."""
    async with RawClient.connect(edge.port) as client:
        await client.send(chunked(chunk(b" ")))

        async def waits() -> bool:
            return await edge.metric("hubgate_in_flight_requests") == 1

        await eventually(waits)
        await client.send(body + CANARY_BYTES)
        told(await client.answer(), "invalid_request")
        assert await client.rest() == b""
    assert edge.engine.wire == b""


async def test_broken_chunks_right_behind_the_head(edge: Edge) -> None:
    """Whenever the break comes, before, while or after somebody begins to read, it is told once."""
    for _ in range(20):
        async with RawClient.connect(edge.port) as client:
            for piece in (chunked(b""), chunk(b" "), b"zz\r\n"):
                await client.send(piece)
            told(await client.answer(), "invalid_request")
            assert await client.rest() == b""
    assert edge.engine.wire == b""


async def test_a_late_break_after_the_answer(edge: Edge) -> None:
    """A body that nobody reads any more may break as it likes: no second answer, and the end."""
    async with RawClient.connect(edge.port) as client:
        await client.send(chunked(chunk(b" ")).replace(ALICE.encode(), b"nobody"))
        told(await client.answer(), "invalid_api_key")
        await client.send(b"zz\r\n" + HEALTH)
        assert b" 200 " not in await client.rest()


async def test_trailers_go_nowhere(edge: Edge) -> None:
    """Trailers are read and dropped, whatever they are called."""
    names = [b"X-Hubgate-Grant", b"Authorization", b"Connection", b"X-Request-Id"]
    trailers = b"".join(name + b": theirs\r\n" for name in names)
    await served(edge, chunked(chunk(BODY) + b"0\r\n" + trailers + b"\r\n"))
    assert b"theirs" not in edge.engine.wire


@pytest.mark.parametrize("name", [b"Content-Length", b"Transfer-Encoding"])
async def test_trailers_that_frame(edge: Edge, name: bytes) -> None:
    """A trailer must not speak of framing (RFC 9110, section 6.5.1): 400, close, 0-up."""
    await refused(edge, chunked(chunk(BODY) + b"0\r\n" + name + b": 7\r\n\r\n"), known=True)


@pytest.mark.parametrize("extension", [b";a", b";a=b", b';a="b"', b";a=b;c=d"])
async def test_chunk_extensions_are_passed_over(edge: Edge, extension: bytes) -> None:
    """Extensions mean nothing here (RFC 9112, section 7.1.1)."""
    await served(edge, chunked(SIZE + extension + b"\r\n" + BODY + b"\r\n0" + extension + b"\r\n\r\n"))


async def test_a_body_on_get_is_not_a_request(edge: Edge) -> None:
    """The body of a request that needs none is read past, not read as the next request."""
    async with RawClient.connect(edge.port) as client:
        smuggled = b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n"
        length = b"Content-Length: %d" % len(smuggled)
        await client.send(head(b"GET /health HTTP/1.1", b"Host: x", length) + smuggled)
        assert (await client.answer("GET")).status == 200
        await alive(client)


async def test_no_length_is_no_body(edge: Edge) -> None:
    """A POST with neither a length nor chunks has an empty body (RFC 9112, section 6.3): 400, kept."""
    await refused(edge, post(length=b"", body=b""), closed=False, known=True)


async def test_a_head_in_pieces(edge: Edge) -> None:
    """A request that arrives byte by byte is the same request."""
    data = post()
    async with RawClient.connect(edge.port) as client:
        for at in range(len(data)):
            await client.send(data[at : at + 1])
        assert (await client.answer()).status == 200
    assert len(edge.engine.requests) == 1


@pytest.mark.parametrize("before", [b"\r\n", b"\r\n\r\n"])
async def test_empty_lines_before_a_request(edge: Edge, before: bytes) -> None:
    """An empty line before the request line is passed over (RFC 9112, section 2.2)."""
    await served(edge, before + post())


@each(
    "data",
    [
        CANARY_BYTES + b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\x00" * 100,
        b"\xff" * 100,
        b" " + LINE + b"\r\n\r\n",
        LINE.replace(b" ", b"  ") + b"\r\n\r\n",
        LINE.replace(b" ", b"\t") + b"\r\n\r\n",
        LINE + b" \r\n\r\n",
        b"FOO /v1/models?" + CANARY_BYTES + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"get /v1/models?" + CANARY_BYTES + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"P\x00ST /v1/models HTTP/1.1\r\nHost: x\r\n\r\n",
        post().replace(b"\r\n", b"\n"),
        post().replace(b"\r\n", b"\r"),
    ],
)
async def test_bytes_that_are_no_request(edge: Edge, data: bytes) -> None:
    """What is no request line is 400 in our words; not a byte of it is repeated."""
    answer = await refused(edge, data)
    assert CANARY_BYTES not in answer.raw


async def test_other_callers_are_unharmed(edge: Edge) -> None:
    """While many connections send garbage or nothing, a good request is answered."""
    async with RawClient.connect(edge.port) as idle, RawClient.connect(edge.port) as slow:
        await idle.send(b"POST")
        await slow.send(LINE + b"\r\nHost: x\r\n")
        for _ in range(20):
            await refused(edge, b"garbage\r\n\r\n")
        await served(edge, post())
