"""threats.md, row 13: what a caller sends without being anybody costs no memory.

A process of its own is measured.
"""

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_asyncio

from tests.fakes.answers import chunk
from tests.fakes.process import ProxyProcess
from tests.fakes.raw import RawClient
from tests.proxy.http.speech import BODY, CHUNKED, HOST, LINE, alive, chunked, head, post

pytestmark = pytest.mark.asyncio(loop_scope="module")

ALLOWED = 5 * 1024 * 1024  # bytes of growth, whatever comes
TOO_LARGE = (b"HTTP/1.1 431", b"")  # a caller who goes on sending may get a reset instead of the answer
Attack = Callable[[int, int], Awaitable[None]]


async def pipelined(port: int, count: int) -> None:
    """Requests without end in one go, whose answers are read only afterwards; all come, in their order."""
    asked = [head(b"GET /health HTTP/1.1", HOST, b"X-Request-Id: request-%d" % n) for n in range(count)]
    async with RawClient.connect(port) as client:
        await client.send(b"".join(asked))
        for number in range(count):
            answer = await client.answer("GET")
            assert (answer.status, answer.header("X-Request-Id")) == (200, f"request-{number}")


async def never_read(port: int, count: int) -> None:
    """The same, and the caller goes without reading one."""
    async with RawClient.connect(port) as client:
        await client.send(head(b"GET /health HTTP/1.1", HOST) * count)
        assert (await client.answer("GET")).status == 200


async def drips(port: int, count: int) -> None:
    """A header of 9 KB, byte by byte, on several connections."""
    for _ in range(max(1, count // 2_000)):
        async with RawClient.connect(port) as client:
            await client.send(LINE + b"\r\nX: ")
            await _pour(client, [b"a"] * 9_000)
            assert (await client.rest())[:12] in TOO_LARGE


async def headers(port: int, count: int) -> None:
    """As many headers as will go, each as long as may be."""
    async with RawClient.connect(port) as client:
        await _pour(client, [LINE + b"\r\n", *[b"X-%d: %s\r\n" % (n, b"a" * 8_000) for n in range(count)]])
        assert (await client.rest())[:12] in TOO_LARGE


async def trailers(port: int, count: int) -> None:
    """Trailers without end behind a good body."""
    lines = [b"X-%d: %s\r\n" % (n, b"a" * 100) for n in range(count)]
    async with RawClient.connect(port) as client:
        await _pour(client, [chunked(chunk(BODY) + b"0\r\n"), *lines, b"\r\n"])
        assert b" 200 " not in await client.rest()


async def extensions(port: int, count: int) -> None:
    """One chunk extension without end."""
    async with RawClient.connect(port) as client:
        await _pour(client, [post(CHUNKED, length=b"", body=b"1;a="), *[b"b" * 1_000] * count])
        assert b" 200 " not in await client.rest()


async def _pour(client: RawClient, pieces: list[bytes]) -> None:
    """Send piece by piece, until the other side has had enough."""
    try:
        for piece in pieces:
            await client.send(piece)
    except ConnectionError:
        return


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def proxy(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ProxyProcess]:
    """A process that has done everything once, so that what is allocated once is not counted."""
    async with ProxyProcess.start(tmp_path_factory.mktemp("proxy")) as running:
        await pipelined(running.port, 100)
        async with RawClient.connect(running.port) as client:
            await client.send(post())
            assert (await client.answer()).status == 200
        yield running


@pytest.mark.parametrize("attack", [pipelined, never_read, drips, headers, trailers, extensions])
async def test_row_13_memory(proxy: ProxyProcess, attack: Attack) -> None:
    """10,000 of each grow the proxy by less than 5 MiB at the peak, and it goes on serving."""
    proxy.engine.wire.clear()
    before = proxy.memory()
    proxy.forget_peak()
    await attack(proxy.port, 10_000)
    assert proxy.peak() - before < ALLOWED
    async with RawClient.connect(proxy.port) as client:
        await alive(client)
    assert proxy.engine.wire == b""
    assert "Traceback" not in proxy.said
