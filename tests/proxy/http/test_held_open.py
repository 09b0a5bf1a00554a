"""Every state in which a caller can sit on something of ours: each has an end, and costs little until then.

A caller who does nothing is the easy one. Those here do as little as they can: a byte now and then, for ever.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from hubgate.proxy.http.caller_connection import CallerConnection
from hubgate.proxy.http.request import ServerRequest
from tests.fakes.answers import chunk, event, head, raw, whole
from tests.fakes.backend import Held
from tests.fakes.certificates import Authority
from tests.fakes.engine import Connection, Received
from tests.fakes.forms import begun, head_of
from tests.fakes.raw import request
from tests.fakes.running_proxy import ALICE, CHAT, MESSAGES, PUBLIC, Edge, eventually
from tests.proxy.conftest import StartEdge
from tests.proxy.http import speech
from tests.proxy.http.speech import HEALTH, LINE
from tests.proxy.relay.slow import post, small, small_socket
from tests.proxy.relay.watch import Watch, watching

pytestmark = pytest.mark.inside

MOST = 1024 * 1024  # bytes that a caller may cost
VAST = 4 * MOST  # of an answer
PAUSE = 0.02  # seconds: less than all that is allowed below
LIMITS = {
    "timeouts": {"header": 0.15, "body_idle": 0.15, "least_rate": 1_000_000},
    "cold_start": {"heartbeat_after": 0.0005},
}
SPARSE = 300  # bytes for each pause: slower than that rate, and more than what a full socket hides

Sits = Callable[[Edge, socket.socket], Awaitable[None]]


async def give(caller: socket.socket, data: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(caller, data)


def gives(start: bytes, drop: bytes = b"") -> Sits:
    """Send this, and then the other again and again."""

    async def sits(_: Edge, caller: socket.socket) -> None:
        await give(caller, start)
        while drop:
            await asyncio.sleep(PAUSE)
            await give(caller, drop)

    return sits


def takes(asked: bytes, size: int = 0) -> Sits:
    """Send this, and take so many bytes of what comes again and again."""

    async def sits(_: Edge, caller: socket.socket) -> None:
        await give(caller, asked)
        while size:
            await asyncio.sleep(PAUSE)
            if not await asyncio.get_running_loop().sock_recv(caller, size):
                return

    return sits


async def one_by_one(edge: Edge, caller: socket.socket) -> None:
    """Small requests, each only when the one before was answered, and no answer is taken."""
    while True:
        await give(caller, HEALTH)
        await edge.admin("/livez")  # a turn of the loop


async def endless(_: Received, connection: Connection) -> None:
    """A stream that goes on as fast as it is taken."""
    connection.send(head(200, [("Content-Type", "text/event-stream"), ("Transfer-Encoding", "chunked")]))
    piece = chunk(event({"choices": [{"index": 0, "delta": {"content": "x" * 1000}}]}))
    while not connection.left.is_set():
        if connection.unsent < MOST:
            connection.send(piece)
        await asyncio.sleep(0)


COLD = msgspec.json.encode({"model": PUBLIC, "messages": MESSAGES, "stream": True})
LEFT = (499, "client_left")
SLOW = (408, "request_timeout")


@dataclass(frozen=True, slots=True)
class State:
    """How a caller sits there, and what the audit tells of the request, if it was one."""

    sits: Sits
    told: tuple[int, str] | None = None


STATES = {
    "nothing was said": State(gives(b"")),
    "a head": State(gives(LINE + b"\r\nX: ", b"a")),
    "a head behind a request": State(gives(HEALTH + LINE + b"\r\nX: ", b"a")),
    "between two requests": State(gives(HEALTH)),
    "blank lines between two requests": State(gives(HEALTH, b"\r\n")),
    "a body": State(gives(speech.post(length=b"Content-Length: 99999", body=b"{"), b" "), SLOW),
    "a body in chunks": State(gives(speech.chunked(chunk(b"{")), chunk(b" ")), SLOW),
    "the framing of a chunk": State(gives(speech.chunked(b"1;"), b"a"), SLOW),
    "a body that was asked for": State(
        gives(speech.post(b"Expect: 100-continue", length=b"Content-Length: 99999", body=b""), b" "), SLOW
    ),
    "a form": State(gives(head_of(("Content-Length", "99999")), b"\r"), SLOW),
    "a file": State(gives(head_of(("Content-Length", "99999")) + begun(), b" "), SLOW),
    "a body that was refused": State(
        gives(speech.post(b"Content-Encoding: gzip", length=b"Content-Length: 99999", body=b""), b" "),
        (415, "unsupported_media_type"),
    ),
    "a stream": State(takes(post(stream=True)), LEFT),
    "a stream, sparsely": State(takes(post(stream=True), SPARSE), LEFT),
    "a stream, with requests behind": State(takes(post(stream=True) + post() * 20), LEFT),
    "a stream, with large requests behind": State(takes(post(stream=True) + post(user="x" * 60_000) * 40)),
    "an answer": State(takes(post()), LEFT),
    "an answer, sparsely": State(takes(post(), SPARSE), LEFT),
    "a last answer": State(takes(post().replace(b"\r\n", b"\r\nConnection: close\r\n", 1), SPARSE), LEFT),
    "heartbeats": State(takes(request("POST", CHAT, [("Authorization", f"Bearer {ALICE}")], COLD)), LEFT),
    "small answers": State(one_by_one),
    "many small answers": State(takes(HEALTH * 2000, 1)),
}


def cost(connection: CallerConnection) -> int:
    """Bytes that are kept for a caller."""
    behind = sum(one.kept for one in connection._waiting if isinstance(one, ServerRequest))
    return connection._transport.get_write_buffer_size() + behind


async def until_left(watch: Watch) -> int:
    """Wait until the proxy has no connection any more; gives the most that there was in one."""
    most = 0

    async def left() -> bool:
        nonlocal most
        most = max([most, *map(cost, watch.open)])
        return not watch.open

    await eventually(left)
    return most


async def sit(state: State, edge: Edge, caller: socket.socket) -> None:
    with suppress(ConnectionError, BrokenPipeError):
        await state.sits(edge, caller)


@pytest.mark.parametrize("name", STATES)
async def test_row_39_who_sits_there_is_left(start_edge: StartEdge, name: str) -> None:
    """In each state: after a while the connection is gone, and with it the engine's request."""
    state = STATES[name]
    with watching() as watch, small(stalled=0.1):
        edge = await start_edge(LIMITS)
        edge.backend.then(Held(edge.backend.make_warm))
        edge.engine.always(endless if "stream" in name else raw(whole(200, b"x" * VAST)))
        async with small_socket(edge) as caller:
            sitting = asyncio.create_task(sit(state, edge, caller))
            while not watch.open:
                await edge.admin("/livez")
            assert await until_left(watch) < MOST
            sitting.cancel()
        if state.told is not None:
            (record, *_) = await edge.records(1, "request.done")
            assert (record["status"], record["reason"]) == state.told

        async def given_back() -> bool:
            return watch.left()[2] == 0

        await eventually(given_back)  # no engine's connection is taken up
        assert await edge.metric("hubgate_in_flight_requests") == 0


async def test_row_39_a_handshake_is_no_place_to_sit(start_edge: StartEdge, tmp_path: Path) -> None:
    """A TLS handshake has the time of a head, however it comes."""
    edge = await start_edge({**LIMITS, "listen": {"tls": Authority().issue(tmp_path)}})
    async with small_socket(edge) as caller:
        hello = gives(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"a")
        sitting = asyncio.create_task(sit(State(hello), edge, caller))
        async with asyncio.timeout(10):
            with suppress(ConnectionError):
                assert await asyncio.get_running_loop().sock_recv(caller, 1) == b""
        sitting.cancel()
