"""Callers who take nothing of what is there for them: however they do it, they are left after a while."""

import asyncio
import socket
import ssl
from pathlib import Path

import pytest

from tests.fakes.answers import DONE, Stream, chunk, raw, whole
from tests.fakes.certificates import Authority
from tests.fakes.engine import LOCAL
from tests.fakes.raw import RawClient
from tests.fakes.running_proxy import eventually
from tests.proxy.conftest import StartEdge
from tests.proxy.http.speech import HEALTH
from tests.proxy.relay.slow import LARGE, PIECE, post, small, small_socket
from tests.proxy.relay.watch import watching

pytestmark = pytest.mark.inside


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
