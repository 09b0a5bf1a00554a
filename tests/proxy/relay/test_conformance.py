"""Every endpoint, streamed and not, and every way in which one side fails the other."""

import asyncio
import itertools
import socket
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec
import pytest
import pytest_asyncio

from tests.fakes.answers import chunk, dies, head, raw, silent, whole
from tests.fakes.certificates import Authority
from tests.fakes.engine import LOCAL, Answer, Connection, Received
from tests.fakes.pki import Pki
from tests.fakes.raw import RawAnswer, RawClient, request
from tests.fakes.running_proxy import ALICE, Edge, Tls, eventually
from tests.proxy.relay import cells
from tests.proxy.relay.cells import CELLS, ENDPOINTS, OUTCOMES, Endpoint, Fault, Mode, Outcome
from tests.proxy.relay.watch import Watch, tasks, watching

pytestmark = pytest.mark.asyncio(loop_scope="module")

VAST = 64  # events of 128 KiB: more than all socket buffers on the way
LENGTH = 1000  # bytes of a plain answer that does not come to its end
NUMBERS = itertools.count(1)
Door = Literal["plain", "tls", "tls behind"]
HASTY = 0.1  # seconds; only where nothing more comes anyway


@dataclass(frozen=True, slots=True)
class Bench:
    """Behind each door a patient proxy and two that give an engine up soon."""

    edges: dict[tuple[Door, str], Edge]
    trusted: ssl.SSLContext
    watch: Watch

    def edge(self, door: Door, fault: Fault) -> Edge:
        return self.edges[door, fault if fault.startswith("engine silent") else "patient"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bench(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bench]:
    timeouts = {
        "patient": {},
        "engine silent before": {"first_byte": HASTY},
        "engine silent after": {"idle": HASTY},
    }
    async with AsyncExitStack() as stack:
        watch, authority = stack.enter_context(watching()), Authority()
        bench = Bench({}, authority.trusted(), watch)
        for door, (name, times) in itertools.product(get_args(Door), timeouts.items()):
            folder = tmp_path_factory.mktemp("edge")
            settings = {
                "listen": {"tls": authority.issue(folder) if door == "tls" else None},
                "timeouts": times,
                "limits": {"requests_per_minute": 1_000_000},
            }
            ends = secured(folder) if door == "tls behind" else None
            edge = await stack.enter_async_context(Edge.start(folder, settings, tls=ends))
            bench.edges[door, name] = edge
            await serves(bench, door, edge)  # what is made once is made
        yield bench


def secured(folder: Path) -> Tls:
    """TLS at the backend and its engine."""
    pki = Pki(folder)
    return Tls(pki.control().listener(), pki.engine().listener(), pki.upstream())


def begun(endpoint: Endpoint, mode: Mode) -> bytes:
    """The head of an answer and its first piece."""
    if mode == "plain":
        lines = [("Content-Type", "application/json"), ("Content-Length", str(LENGTH))]
        return head(200, lines) + endpoint.plain
    lines = [("Content-Type", "text/event-stream; charset=utf-8"), ("Transfer-Encoding", "chunked")]
    return head(200, lines) + chunk(endpoint.event)


def complete(endpoint: Endpoint, mode: Mode) -> tuple[Answer, bytes]:
    """A long answer, and its body."""
    if mode == "plain":
        body = endpoint.plain + b"x" * (VAST * 128 * 1024)
        return raw(whole(200, body)), body
    events = [endpoint.event, *[b"data: " + b"x" * (128 * 1024) + b"\n\n"] * VAST]
    first = begun(endpoint, mode)
    return raw(first, *map(chunk, events[1:]), chunk(b"")), b"".join(events)


def misbehaves(endpoint: Endpoint, mode: Mode, fault: Fault) -> Answer:
    """The engine's part in the fault."""

    async def stays(_: Received, connection: Connection) -> None:
        connection.send(begun(endpoint, mode))
        await connection.left.wait()

    answers: dict[Fault, Callable[[], Answer]] = {
        "caller leaves before": silent,
        "caller leaves after": lambda: stays,
        "engine dies before": dies,
        "engine dies after": lambda: raw(begun(endpoint, mode), close=True),
        "engine silent before": silent,
        "engine silent after": lambda: stays,
        "caller slow": lambda: complete(endpoint, mode)[0],
    }
    return answers[fault]()


@pytest.mark.parametrize(
    ("door", "name", "mode", "fault"),
    [("plain", *cell) for cell in CELLS]
    + [(door, *cell) for door in ("tls", "tls behind") for cell in CELLS if cell[0] == "chat"],
)
async def test_every_cell(bench: Bench, door: Door, name: str, mode: Mode, fault: Fault) -> None:
    """The caller, the audit and the engine see what the table says, and nothing is left behind."""
    edge, endpoint, due = bench.edge(door, fault), ENDPOINTS[name], OUTCOMES[fault, mode]
    before, asked, number = tasks(), len(edge.engine.requests), f"request-{next(NUMBERS)}"
    edge.engine.then(misbehaves(endpoint, mode, fault))
    async with connected(bench, door, edge) as client:
        await client.send(post(endpoint, mode, number))
        await edge.engine.received(asked + 1)
        await settle(edge)
        if due.status is None:
            if fault == "caller leaves after":
                assert (await client.until(b"hi" if mode == "stream" else b":[")).startswith(b"HTTP/1.1 200")
            client.leave()
        else:
            judge(endpoint, mode, due, await client.answer())
            if due.whole:
                await client.send(request("GET", "/health"))
                assert (await client.answer("GET")).status == 200
            else:
                assert await client.rest() == b""
    assert len(edge.engine.requests) == asked + 1, "it ran twice"
    await nothing_is_left(bench, edge, before)
    assert await audited(edge, number) == due.audit
    await serves_on(bench, door, edge, due)


async def audited(edge: Edge, number: str) -> tuple[int, str]:
    """What the audit tells of the request."""
    found: list[tuple[int, str]] = []

    async def told() -> bool:
        found.extend((r["status"], r["reason"]) for r in await edge.records(0) if r["request_id"] == number)
        return bool(found)

    await eventually(told)
    (only,) = found
    return only


async def settle(edge: Edge) -> None:
    """Let what was sent arrive: some turns of the loop, through a socket and back."""
    for _ in range(5):
        await edge.admin("/livez")


def post(endpoint: Endpoint, mode: Mode, number: str) -> bytes:
    body = msgspec.json.encode(cells.request_body(endpoint, mode))
    auth = [("Authorization", f"Bearer {ALICE}"), ("X-Request-Id", number)]
    return request("POST", endpoint.path, auth, body)


@asynccontextmanager
async def connected(bench: Bench, door: Door, edge: Edge) -> AsyncIterator[RawClient]:
    """A caller who holds little of what they do not read."""
    caller = socket.socket()
    caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    caller.settimeout(0)
    await asyncio.get_running_loop().sock_connect(caller, (LOCAL, edge.port))
    tls: dict[str, Any] = {"ssl": bench.trusted, "server_hostname": LOCAL} if door == "tls" else {}
    client = RawClient(*await asyncio.open_connection(sock=caller, limit=1 << 20, **tls))
    try:
        yield client
    finally:
        client.leave()


def judge(endpoint: Endpoint, mode: Mode, due: Outcome, found: RawAnswer) -> None:
    """What the caller got is what is due, in the endpoint's own dialect."""
    assert (found.status, found.complete) == (due.status, due.whole)
    if due.status != 200 and due.told:
        said = found.json()
        assert said == cells.error(endpoint.dialect, due.told, said)
        assert found.header("Content-Type") == "application/json"
        return
    first = endpoint.event if mode == "stream" else endpoint.plain
    if due.whole:
        assert found.body == complete(endpoint, mode)[1]
        return
    assert found.body.startswith(first)
    told = found.body.removeprefix(first)
    assert not found.raw.endswith(b"0\r\n\r\n")
    if due.told is None:
        assert told == b""
        assert found.header("Content-Length") == str(LENGTH)
        return
    name, _, data = told.strip(b"\n").rpartition(b"data: ")
    assert told.startswith(b"\n\n")
    assert told.endswith(b"\n\n")
    assert name == (b"" if endpoint.dialect == "openai" else b"event: error\n")
    said = msgspec.json.decode(data)
    assert said == cells.error_event(endpoint.dialect, due.told, said)


async def nothing_is_left(bench: Bench, edge: Edge, before: Counter[str]) -> None:
    """No task, no connection that is not idle, nobody who refers to one, and no request in flight."""

    async def quiet() -> bool:
        open_to_engine = len(edge.engine.connections)
        idle = sum(connection.address[1] == edge.engine.port for connection in bench.watch.idle)
        return not tasks() - before and bench.watch.left() == (0, 0, 0) and open_to_engine == idle

    await eventually(quiet)
    assert await edge.metric("hubgate_in_flight_requests") == 0


async def serves(bench: Bench, door: Door, edge: Edge) -> None:
    """A plain chat is answered."""
    async with connected(bench, door, edge) as client:
        await client.send(post(ENDPOINTS["chat"], "plain", f"request-{next(NUMBERS)}"))
        assert (await client.answer()).status == 200


async def serves_on(bench: Bench, door: Door, edge: Edge, due: Outcome) -> None:
    """The next request is answered, over the same connection to the engine only if that is whole."""
    known = set(edge.engine.connections)
    assert bool(known) == due.reused
    await serves(bench, door, edge)
    assert (set(edge.engine.connections) == known) == due.reused
    for connection in tuple(edge.engine.connections):
        connection.close()
    await edge.engine.until(lambda: not edge.engine.connections)
