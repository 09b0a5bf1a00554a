"""Slow readers: what they are sent, what they hold, and that nobody else pays for them."""

import asyncio
import socket
from unittest.mock import patch

import pytest

from hubgate.proxy.context import RequestContext
from hubgate.proxy.http import caller_connection as callers
from hubgate.proxy.http import server
from hubgate.proxy.http.request import Flow, RawHead, ServerRequest
from hubgate.proxy.metrics.registry import Metrics
from hubgate.proxy.settings import Timeouts
from hubgate.proxy.upstream.connection_pool import ConnectionPool
from hubgate.proxy.upstream.engine_connection import EngineConnection, Patience
from hubgate.proxy.upstream.gate_line import GateLine
from hubgate.proxy.upstream.relay import Relay
from hubgate.proxy.upstream.response_head import ResponseHead as AnswerHead
from hubgate.wire.control_api import EngineInfo
from tests.fakes import answers
from tests.fakes.answers import raw, whole
from tests.fakes.engine import LOCAL, RawEngine
from tests.fakes.raw import request
from tests.fakes.running_proxy import ALICE, BASE, CHAT, Edge, eventually
from tests.proxy.conftest import StartEdge
from tests.proxy.relay.watch import watching

VAST = 12 * 1024 * 1024  # bytes: more than all socket buffers on the way
ASKED = request(
    "POST",
    CHAT,
    [("Authorization", f"Bearer {ALICE}")],
    b'{"model":"%s","messages":[{"role":"user","content":"x"}]}' % BASE.encode(),
)
PATIENT = Patience(first_byte=5, idle=5, answer=60)
GET = b"GET / HTTP/1.1\r\nHost: engine\r\n\r\n"


class Slow:
    """Takes an answer, and holds its source as a caller does who does not read."""

    def __init__(self, source: EngineConnection | None = None) -> None:
        self.body = b""
        self._source = source

    def head(self, head: AnswerHead, length: int) -> None:
        del length
        assert head.status == 200

    def data(self, data: bytes, chunk: bytes = b"") -> None:
        del chunk
        self.body += data
        if self._source is not None:
            self._source.pause()


async def test_a_slow_caller_does_not_hold_the_next_one() -> None:
    """A connection that was held when its answer ended is read again for the next request."""
    async with RawEngine.start() as engine:
        engine.always(raw(whole(200, b"x")))
        pool = ConnectionPool(5)
        connection = await pool.open((LOCAL, engine.port, ""))
        await connection.exchange((GET, ()), Slow(connection), PATIENT)
        assert pool.take((LOCAL, engine.port, "")) is connection
        await connection.exchange((GET, ()), Slow(), PATIENT)
        pool.close()


class Choking:
    """A caller's connection that is full when an answer's last bytes are written to it."""

    date, draining, behind = "now", False, False

    def __init__(self) -> None:
        self.source: Flow | None = None

    def write(self, data: bytes) -> None:
        if data.endswith(b"0\r\n\r\n") and self.source is not None:
            self.source.pause()

    def set_source(self, source: Flow | None) -> None:
        self.source = source

    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def cut(self) -> None: ...
    def admit(self) -> None: ...

    def finished(self, *, keep: bool) -> None:
        del keep
        self.source = None


async def _nobody(*_: object) -> list[int]:
    raise AssertionError("nobody streams")


async def test_a_caller_who_is_full_at_the_end_does_not_hold_the_next_one() -> None:
    """The engine's connection may be somebody else's by then."""
    async with RawEngine.start() as engine:
        head = [("Content-Type", "text/event-stream"), ("Transfer-Encoding", "chunked")]
        engine.always(raw(answers.head(200, head), answers.chunk(b"data: x\n\n"), answers.chunk(b"")))
        pool = ConnectionPool(5)
        line = GateLine(_nobody, 5, asyncio.get_running_loop().time)
        relay = Relay(pool, line, Timeouts(first_byte=5, idle=5), Metrics())
        info = EngineInfo(id="e", boot="b", port=engine.port, base="a/b", state="ready")
        for _ in range(3):
            asked = RawHead(method="POST", target="/", version="1.1", headers=(), peer="", keep_alive=True)
            request = ServerRequest(Choking(), asked)
            request.feed_end()
            told = await relay.forward(
                RequestContext("req-1", "192.0.2.1"),
                request,
                address=(LOCAL, engine.port, ""),
                engine=info,
                body=(b"{}",),
                content_type="application/json",
                passed="",
                grant="",
            )
            assert told is None
        pool.close()


async def test_a_connection_that_has_ended_is_not_taken() -> None:
    """Between the engine's FIN and the transport's word of it, it serves no other request."""
    async with RawEngine.start() as engine:
        engine.always(raw(whole(200, b"x")))
        pool = ConnectionPool(5)
        ended = await pool.open((LOCAL, engine.port, ""))
        await ended.exchange((GET, ()), Slow(), PATIENT)
        ended.eof_received()
        ended.close()  # as the transport does then; `connection_lost` follows one turn of the loop later
        assert pool.take((LOCAL, engine.port, "")) is None
        pool.close()


async def ask(edge: Edge, caller: socket.socket, asked: bytes) -> None:
    """Ask for more than fits into all buffers, on a connection with a small window."""
    loop = asyncio.get_running_loop()
    caller.settimeout(0)
    caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    await loop.sock_connect(caller, (LOCAL, edge.port))
    edge.engine.then(raw(whole(200, b"x" * VAST)))
    await loop.sock_sendall(caller, asked)
    await edge.engine.received(1)


@pytest.mark.inside
async def test_row_39_who_never_reads_is_left(start_edge: StartEdge) -> None:
    """Who takes nothing of an answer is left after a while, by their own fault; no engine is kept."""
    with watching() as watch, patch.object(callers, "STALLED", 0.05), socket.socket() as caller:
        edge = await start_edge()
        await ask(edge, caller, ASKED)
        (record,) = await edge.records(1)
        assert (record["reason"], record["status"]) == ("client_left", 499)

        async def left() -> bool:
            return not watch.open

        await eventually(left)
        assert (await edge.chat()).status == 200


async def test_row_43_who_never_reads_does_not_hold_the_shutdown(start_edge: StartEdge) -> None:
    """The proxy ends although somebody does not read an answer."""
    edge = await start_edge()
    with patch.object(server, "LINGER", 0.05), socket.socket() as caller:
        await ask(edge, caller, ASKED)
        async with asyncio.timeout(10):
            await edge.stop()


@pytest.mark.parametrize("closing", [False, True])
async def test_who_reads_late_gets_everything(edge: Edge, closing: bool) -> None:
    """A pause of the caller's costs no byte, also where the connection ends with the answer."""
    asked = ASKED.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1) if closing else ASKED
    with socket.socket() as caller:
        await ask(edge, caller, asked)
        for _ in range(50):
            await edge.admin("/livez")  # turns of the loop in which the buffers fill
        reader, writer = await asyncio.open_connection(sock=caller)
        await reader.readuntil(b"\r\n\r\n")
        assert await reader.readexactly(VAST) == b"x" * VAST
        writer.close()
    assert (await edge.chat()).status == 200
