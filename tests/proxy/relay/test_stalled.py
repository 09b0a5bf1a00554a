"""Callers who take nothing of what is there for them: however they do it, they are left after a while."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import msgspec
import pytest

from hubgate.proxy.http import caller_connection as callers
from hubgate.proxy.http import server
from tests.fakes.answers import DONE, Stream, chunk, raw, whole
from tests.fakes.certificates import Authority
from tests.fakes.engine import LOCAL
from tests.fakes.raw import RawClient, request
from tests.fakes.running_proxy import ALICE, BASE, CHAT, Edge, eventually
from tests.proxy.conftest import StartEdge
from tests.proxy.http.speech import HEALTH
from tests.proxy.relay.watch import watching

pytestmark = pytest.mark.inside

LARGE = 64_000  # bytes of an answer: more than the buffers on the way, which are small here
PIECE = b"GET /health HTTP/1.1\r\nX-Slow: 1\r\n"  # of a head


def post(**fields: Any) -> bytes:
    body = msgspec.json.encode({"model": BASE, "messages": [], **fields})
    return request("POST", CHAT, [("Authorization", f"Bearer {ALICE}")], body)


@contextmanager
def small(stalled: float = 0.05) -> Iterator[None]:
    """Small buffers on the proxy's side, and little patience with who takes nothing."""
    made = callers.CallerConnection.connection_made

    def begun(connection: callers.CallerConnection, transport: asyncio.BaseTransport) -> None:
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16384)
        made(connection, transport)

    with (
        patch.object(callers, "HIGH_WATER", 1024),
        patch.object(callers, "STALLED", stalled),
        patch.object(callers, "LINGER", stalled),
        patch.object(server, "KEEPALIVE", 0.1),
        patch.object(callers.CallerConnection, "connection_made", begun),
    ):
        yield


@asynccontextmanager
async def small_socket(edge: Edge) -> AsyncIterator[socket.socket]:
    """A caller's connection on which nothing is read yet."""
    with socket.socket() as caller:
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        caller.settimeout(0)
        await asyncio.get_running_loop().sock_connect(caller, (LOCAL, edge.port))
        yield caller


@pytest.mark.parametrize(
    "behind",
    [b"", HEALTH, HEALTH * 50, HEALTH + PIECE, HEALTH + b"\r\nno request\r\n\r\n", PIECE],
    ids=["nothing", "one", "many", "one and a half", "one and none", "half"],
)
async def test_row_39_who_takes_nothing_is_left(start_edge: StartEdge, behind: bytes) -> None:
    """Whatever they had sent behind the request whose answer they do not take."""
    with watching() as watch, small():
        edge = await start_edge({"timeouts": {"header": 0.1}})
        edge.engine.always(raw(whole(200, b"x" * LARGE)))
        async with small_socket(edge) as caller:
            await asyncio.get_running_loop().sock_sendall(caller, post() + behind)
            await edge.engine.received(1)

            async def left() -> bool:
                return not watch.open

            await eventually(left)


async def test_row_39_who_takes_nothing_is_left_behind_tls_too(start_edge: StartEdge, tmp_path: Path) -> None:
    """Where the caller has said that nothing more comes, but not by the rules of TLS."""
    authority = Authority()
    with watching() as watch, small():
        edge = await start_edge({"listen": {"tls": authority.issue(tmp_path)}})
        edge.engine.always(raw(whole(200, b"x" * LARGE)))
        async with small_socket(edge) as caller:
            await _say(caller, authority.trusted(), post())
            await edge.engine.received(1)
            caller.shutdown(socket.SHUT_WR)

            async def left() -> bool:
                return not watch.open

            await eventually(left)


async def _say(caller: socket.socket, trusted: ssl.SSLContext, data: bytes) -> None:
    """Shake hands, and send this; nothing of the answer is read."""
    loop, come, go = asyncio.get_running_loop(), ssl.MemoryBIO(), ssl.MemoryBIO()
    secured = trusted.wrap_bio(come, go, server_hostname=LOCAL)
    while True:
        try:
            secured.do_handshake()
            break
        except ssl.SSLWantReadError:
            await loop.sock_sendall(caller, go.read())
            come.write(await loop.sock_recv(caller, 4096))
    secured.write(data)
    await loop.sock_sendall(caller, go.read())


async def test_a_faulty_head_behind_a_stream_does_not_cut_it(start_edge: StartEdge) -> None:
    """Its time was running while an answer was not taken; then that is, and nothing is due any more."""
    stream = Stream(count=3)
    with small(stalled=60):
        edge = await start_edge({"timeouts": {"header": 0.3}})
        edge.engine.then(raw(whole(200, b"x" * LARGE)), stream)
        async with small_socket(edge) as caller:
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(caller, post() + post(stream=True) + PIECE)
            await edge.engine.received(1)
            await edge.admin("/livez")  # turns of the loop, in which the buffers fill
            await loop.sock_sendall(caller, b"X-Slow: 2\r\n")
            client = RawClient(*await asyncio.open_connection(sock=caller))
            assert (await client.answer()).complete
            await client.send(b"Host: a/b\r\n\r\n")
            await edge.engine.received(2)
            stream.step()
            await asyncio.sleep(0.4)  # the time of that head, which no event marks
            stream.finish()
            answer = await client.answer()
            assert answer.complete
            assert answer.body.endswith(DONE)
            assert answer.raw.endswith(chunk(b""))
            assert (await client.answer()).status == 400
            client.leave()
